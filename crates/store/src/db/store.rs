//! The part every store with a file of its own shares.

/// Defines a store that has a file of its own: how it is opened and how its file is reached.
macro_rules! sqlite_store {
    ($(#[$doc:meta])* $name:ident, $migrations:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            db: $crate::db::Db,
        }

        impl $name {
            /// Opens the file, creating or migrating it as needed. Blocks while it does so.
            ///
            /// # Errors
            /// Those of [`Db::open`](crate::db::Db::open).
            pub fn open(path: impl Into<std::path::PathBuf>) -> Result<Self, tandem_types::Fault> {
                Ok(Self { db: $crate::db::Db::open(path, $migrations)? })
            }

            /// The file, for backup, checks and closing.
            pub fn db(&self) -> &$crate::db::Db {
                &self.db
            }
        }
    };
}
pub(crate) use sqlite_store;
