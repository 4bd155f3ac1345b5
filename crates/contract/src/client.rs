//! Typed calls: messages in, messages or a [`Fault`] out.

use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use connectrpc::Protocol;
use connectrpc::client::{
    CallOptions, ClientConfig, ClientTransport as _, call_bidi_stream, call_server_stream, call_unary, full_body,
};
use connectrpc::spec::{Spec, StreamType};
use futures::Stream;
use http::{Request, Response, Uri};
use tandem_types::{Code, Fault, reason};

use crate::call::Call;
use crate::channel::{Body, Channel};
use crate::errors::fault_from_wire;
use crate::idle::Idle;
use crate::raw::{Raw, RawView, read, read_next};
use crate::rpc::{Bidi, ServerStream, Unary, Wire, default_deadline};

/// A stream of messages that ends after its first fault.
pub type FaultStream<T> = Pin<Box<dyn Stream<Item = Result<T, Fault>> + Send>>;

/// A caller of one address.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    config: ClientConfig,
}

impl Client {
    /// Calls go to `base`, for example `http://127.0.0.1:8200`.
    pub fn new(channel: Channel, base: Uri) -> Self {
        Self { channel, config: ClientConfig::new(base).with_protocol(Protocol::Grpc) }
    }

    fn options(path: &str, call: &Call, stream: bool) -> Result<CallOptions, Fault> {
        let mut options = CallOptions::default()
            .with_headers(call.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
        match call.deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Fault::new(
                        Code::DeadlineExceeded,
                        reason::TIME_UP,
                        format!("no time was left to call {path}"),
                    ));
                }
                options = options.with_timeout(left);
            }
            None if !stream => options = options.with_timeout(default_deadline(path)),
            None => {}
        }
        Ok(options)
    }

    /// One request, one response.
    pub async fn unary<Req: Wire, Res: Wire>(
        &self,
        rpc: Unary<Req, Res>,
        request: Req,
        call: &Call,
    ) -> Result<Res, Fault> {
        let options = Self::options(rpc.path(), call, false)?;
        let spec = Spec::client(rpc.path(), StreamType::Unary);
        let answer = self.unary_raw(spec, Raw::of(&request), options).await?;
        read(&answer, rpc.path())
    }

    async fn unary_raw(&self, spec: Spec, request: Raw, options: CallOptions) -> Result<Bytes, Fault> {
        call_unary::<_, _, RawView<'static>>(&self.channel, &self.config, spec, request, options)
            .await
            .map(|response| response.into_view().into_bytes())
            .map_err(|e| fault_from_wire(&e))
    }

    /// One request, a stream of responses. Dropping the stream cancels the call. Without a deadline it ends when it is
    /// silent for longer than [`crate::rpc::idle_limit`].
    pub async fn server_stream<Req: Wire, Res: Wire>(
        &self,
        rpc: ServerStream<Req, Res>,
        request: Req,
        call: &Call,
    ) -> Result<FaultStream<Res>, Fault> {
        let options = Self::options(rpc.path(), call, true)?;
        let spec = Spec::client(rpc.path(), StreamType::ServerStream);
        let idle = Idle::of_caller(rpc.path(), call);
        let request = Raw::of(&request);
        let opening = call_server_stream::<_, _, RawView<'static>>(&self.channel, &self.config, spec, request, options);
        // Boxed: it is large, and whoever opens a stream keeps it in its own future.
        let stream = idle.open(Box::pin(async { opening.await.map_err(|e| fault_from_wire(&e)) })).await?;
        Ok(Box::pin(futures::stream::unfold(Some((stream, idle)), move |state| async move {
            let (mut stream, idle) = state?;
            match idle.next(stream.message::<Raw>()).await {
                Ok(Ok(Some(message))) => match read_next(&message, rpc.path()) {
                    Ok(message) => Some((Ok(message), Some((stream, idle)))),
                    Err(fault) => Some((Err(fault), None)),
                },
                Ok(Ok(None)) => None,
                Ok(Err(error)) => Some((Err(fault_from_wire(&error)), None)),
                Err(fault) => Some((Err(fault), None)),
            }
        })))
    }

    /// A stream each way. Dropping both halves cancels the call.
    pub async fn bidi<Req: Wire, Res: Wire>(
        &self,
        rpc: Bidi<Req, Res>,
        call: &Call,
    ) -> Result<BidiCall<Req, Res>, Fault> {
        let options = Self::options(rpc.path(), call, true)?;
        let spec = Spec::client(rpc.path(), StreamType::BidiStream);
        let idle = Idle::of_caller(rpc.path(), call);
        let opening = call_bidi_stream::<_, Raw, RawView<'static>>(&self.channel, &self.config, spec, options);
        // Boxed: it is large, and whoever opens a stream keeps it in its own future.
        let stream = idle.open(Box::pin(async { opening.await.map_err(|e| fault_from_wire(&e)) })).await?;
        let (sender, receiver) = stream.into_split();
        Ok(BidiCall {
            sender: BidiSender { half: sender, idle: idle.clone(), types: PhantomData },
            receiver: BidiReceiver { half: receiver, idle, path: rpc.path(), types: PhantomData },
        })
    }

    /// Sends a request that is in the contract's HTTP form already, and hands the answer back unread, as it arrives.
    /// Dropping the answer cancels the call.
    pub async fn forward(&self, request: Request<Bytes>) -> Result<Response<Body>, Fault> {
        let (mut parts, body) = request.into_parts();
        let mut uri = self.config.base_uri().clone().into_parts();
        uri.path_and_query = parts.uri.into_parts().path_and_query;
        parts.uri = Uri::from_parts(uri).map_err(|e| Fault::internal(format!("an address to forward to: {e}")))?;
        self.channel.send(Request::from_parts(parts, full_body(body))).await.map_err(|e| fault_from_wire(&e))
    }
}

/// A call with a stream each way.
pub struct BidiCall<Req, Res> {
    /// Requests go in here.
    pub sender: BidiSender<Req>,
    /// Responses come out here.
    pub receiver: BidiReceiver<Res>,
}

/// The sending half; dropping it says that nothing more comes.
pub struct BidiSender<Req> {
    half: connectrpc::client::BidiSendHalf<Raw>,
    idle: Idle,
    types: PhantomData<fn(Req)>,
}

impl<Req: Wire> BidiSender<Req> {
    /// Sends one request; waits while the provider is behind.
    pub async fn send(&mut self, request: Req) -> Result<(), Fault> {
        self.idle.beat();
        self.half.send(Raw::of(&request)).await.map_err(|e| fault_from_wire(&e))
    }
}

/// The receiving half.
pub struct BidiReceiver<Res> {
    half: connectrpc::client::BidiRecvHalf<Body, RawView<'static>>,
    idle: Idle,
    path: &'static str,
    types: PhantomData<fn() -> Res>,
}

impl<Res: Wire> BidiReceiver<Res> {
    /// The next response; none at the end.
    pub async fn message(&mut self) -> Result<Option<Res>, Fault> {
        match self.idle.next(self.half.message::<Raw>()).await? {
            Ok(message) => message.map(|message| read_next(&message, self.path)).transpose(),
            Err(error) => Err(fault_from_wire(&error)),
        }
    }
}
