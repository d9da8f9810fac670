//! What can go wrong here. Three causes, kept apart so that the engine can say whose each one is.

use std::fmt;

use tch::TchError;

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug)]
pub enum Error {
    /// A setting that cannot be: the user's to change.
    Setting {
        /// Its name in the policy's table.
        key: String,
        /// What it may be.
        expected: String,
        /// What it was.
        found: String,
    },
    /// A number that is not finite where it must be.
    NotFinite {
        /// Which number, of which row and token.
        what: String,
    },
    /// Something handed over in a wrong shape, or not at all: the engine's mistake.
    Handed {
        /// What it was.
        what: &'static str,
        /// What it should have been.
        expected: String,
        /// What came.
        found: String,
    },
    /// libtorch refused an operation.
    Torch(TchError),
}

impl Error {
    pub(crate) fn setting(key: &str, expected: &str, found: impl fmt::Display) -> Self {
        Error::Setting { key: key.into(), expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn handed(what: &'static str, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Error::Handed { what, expected: expected.to_string(), found: found.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setting { key, expected, found } => write!(f, "{key}: expected {expected}, found {found}"),
            Error::NotFinite { what } => write!(f, "not finite: {what}"),
            Error::Handed { what, expected, found } => {
                write!(f, "{what}: expected {expected}, found {found}")
            }
            Error::Torch(e) => {
                write!(
                    f,
                    "libtorch refused an operation: {}",
                    e.to_string().lines().next().unwrap_or_default()
                )
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<TchError> for Error {
    fn from(e: TchError) -> Self {
        Error::Torch(e)
    }
}
