//! The compressions that Mender has, by the suffix of a member's name.

mod blocks;
mod decode;
#[cfg(feature = "write")]
mod encode;

use serde::Serialize;

pub(crate) use decode::Decoder;
#[cfg(feature = "write")]
pub(crate) use encode::Encoder;
#[cfg(feature = "write")]
pub use encode::{Encoding, UnknownEncoding};

/// How a member is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all: `.tar`.
    None,
    /// `.tar.gz`, perhaps of several members.
    Gzip,
    /// `.tar.xz`, which Mender calls lzma.
    Xz,
    /// `.tar.zst`, perhaps of several frames. Mender reads it from client 4 and tool 3.10 on.
    Zstd,
}

/// Unpacks a member, or what is left of it from the beginning of one of its blocks on.
///
/// # Errors
/// [`Error`](crate::Error) if this build has no decoder for it.
pub fn unpack<R: std::io::Read>(
    member: &str,
    kind: Compression,
    input: R,
    limits: &crate::Limits,
) -> Result<impl std::io::Read + use<R>, crate::Error> {
    Decoder::new(member, kind, input, limits)
}

impl Compression {
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Xz, Self::Zstd];

    /// What stands behind `.tar` in a member's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
        }
    }

    /// The compression of a member that is called `stem` and a suffix.
    pub fn of_member(name: &str, stem: &str) -> Option<Self> {
        let suffix = name.strip_prefix(stem)?;
        Self::ALL.into_iter().find(|kind| kind.suffix() == suffix)
    }
}
