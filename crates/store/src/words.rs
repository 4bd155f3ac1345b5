//! Enums that are words in a column, and the reasons that only stores give.

/// Stable words for why a store refuses; beside those of [`tandem_types::reason`].
pub mod reason {
    /// A newer version of Tandem wrote the file.
    pub const NEWER_SCHEMA: &str = "newer_schema";
    /// The session, request or action has ended.
    pub const ENDED: &str = "ended";
    /// The id belongs to somebody else.
    pub const TAKEN: &str = "taken";
    /// What is stored is newer than what was sent.
    pub const STALE: &str = "stale";
    /// Another action on the same group has not finished.
    pub const BUSY: &str = "busy";
}

/// Defines an enum whose variants are kept, sent and shown as the given words.
macro_rules! words {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$about])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Its word in rows, replies and exports.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!(concat!("`{}` is no ", stringify!($name), " (", $($word, " ",)+ ")"), text)),
                }
            }
        }
    };
}
pub(crate) use words;
