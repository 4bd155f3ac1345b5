//! Messages as the bytes they travel in.
//!
//! The client hands the library nothing else: a call is several kilobytes of program for each pair of types that it is
//! made with, and the contract has dozens of pairs. Types are put on and taken off here, outside of it.

use buffa::encoding::{Tag, decode_unknown_field, skip_field};
use buffa::view::OwnedView;
use buffa::{DecodeContext, DecodeError, EncodeSink, HasMessageView, Message, MessageView, SizeCache, UnknownFields};
use bytes::{Bytes, BytesMut};
use connectrpc::StreamMessage;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use tandem_types::Fault;

/// An encoded message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Raw(Bytes);

impl Raw {
    pub(crate) fn of(message: &impl Message) -> Self {
        Self(message.encode_to_bytes())
    }
}

/// What came as an answer of `path`.
pub(crate) fn read<M: Message>(bytes: &Bytes, path: &str) -> Result<M, Fault> {
    M::decode_from_slice(bytes).map_err(|e| Fault::internal(format!("an answer of {path} cannot be read: {e}")))
}

/// The same of one message of a stream.
pub(crate) fn read_next<M: Message>(message: &StreamMessage<Raw>, path: &str) -> Result<M, Fault> {
    read(message.bytes(), path)
}

buffa::impl_default_instance!(Raw);

impl Message for Raw {
    fn compute_size(&self, _: &mut SizeCache) -> u32 {
        // More than a message may have, which is what the caller of this then says.
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn write_to(&self, _: &mut SizeCache, buf: &mut impl EncodeSink) {
        buf.put_slice(&self.0);
    }

    fn encode_to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    fn merge_field(&mut self, tag: Tag, buf: &mut impl bytes::Buf, ctx: DecodeContext<'_>) -> Result<(), DecodeError> {
        let mut fields = UnknownFields::new();
        fields.push(decode_unknown_field(tag, buf, ctx)?);
        let mut all = BytesMut::from(&*self.0);
        fields.write_to(&mut all);
        self.0 = all.freeze();
        Ok(())
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Fields of an encoded message, in the order they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawView<'a>(Vec<&'a [u8]>);

impl<'a> MessageView<'a> for RawView<'a> {
    type Owned = Raw;

    fn decode_view(buf: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self(vec![buf]))
    }

    fn merge_view_field(
        &mut self,
        tag: Tag,
        mut cur: &'a [u8],
        before_tag: &'a [u8],
        _: DecodeContext<'_>,
    ) -> Result<&'a [u8], DecodeError> {
        skip_field(tag, &mut cur)?;
        self.0.push(&before_tag[..before_tag.len() - cur.len()]);
        Ok(cur)
    }

    fn to_owned_message(&self) -> Result<Raw, DecodeError> {
        Ok(Raw(self.0.concat().into()))
    }
}

buffa::impl_view_reborrow!(RawView);

/// A received message with the bytes it was read from.
pub(crate) struct RawHandle(OwnedView<RawView<'static>>);

impl From<OwnedView<RawView<'static>>> for RawHandle {
    fn from(view: OwnedView<RawView<'static>>) -> Self {
        Self(view)
    }
}

impl AsRef<OwnedView<RawView<'static>>> for RawHandle {
    fn as_ref(&self) -> &OwnedView<RawView<'static>> {
        &self.0
    }
}

impl HasMessageView for Raw {
    type View<'a> = RawView<'a>;
    type ViewHandle = RawHandle;
}

/// JSON needs the type that the bytes are of; the client writes none.
const NO_JSON: &str = "an encoded message has no form in JSON";

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom(NO_JSON))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom(NO_JSON))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::tandem::system::v1::SubscribeRequest;

    #[test]
    fn bytes_go_through_as_they_are_by_every_way() {
        let message = SubscribeRequest { topics: vec!["node.link".into(), "ü".into()], ..Default::default() };
        let raw = Raw::of(&message);
        assert_eq!(raw.encode_to_bytes(), message.encode_to_bytes());
        assert_eq!(Raw::decode_from_slice(&raw.0).unwrap(), raw);
        let whole = RawView::decode_view(&raw.0).unwrap();
        assert_eq!(whole.to_owned_message().unwrap(), raw);
        let view = OwnedView::<RawView<'static>>::decode(raw.0.clone()).unwrap();
        assert_eq!(view.bytes(), &raw.0);
        assert_eq!(read::<SubscribeRequest>(&raw.0, "/a/B").unwrap(), message);
        let cut = raw.0.slice(..raw.0.len() - 1);
        let fault = read::<SubscribeRequest>(&cut, "/a/B").unwrap_err();
        assert!(fault.message.starts_with("an answer of /a/B cannot be read: "), "{fault}");
        assert!(serde_json::to_string(&raw).is_err() && serde_json::from_str::<Raw>("{}").is_err());
    }
}
