//! Git objects and where they come from: every object read here was proven by its hash.
//!
//! A source (a repository, a folder of loose objects, memory) only *loads* bytes; reading them
//! goes through [`ReadObjects`], which no source can replace, so that nothing unproven is used.
//! The parsers of commits and trees are in `commit` and `tree`.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use sha1_checked::{CollisionResult, Digest as _, Sha1};
use volary_host::{CmdError, FileError};
use volary_model::{CommitId, InvalidName};

use crate::approval::Approval;
use crate::commit::Commit;
use crate::tree::Tree;

/// No object may be larger: a fleet repository holds text, and a device has little memory.
pub const MAX_OBJECT: u64 = 32 << 20;

/// The id of a git object: the SHA-1 of its kind, size and content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 20]);

impl ObjectId {
    /// Wraps the 20 bytes as they stand in trees and packs.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The id of an object with this kind and content.
    ///
    /// # Errors
    /// [`ObjectError::Collision`] if the content was made to collide with another's SHA-1.
    pub fn of(kind: ObjectKind, data: &[u8]) -> Result<Self, ObjectError> {
        let mut hasher = Sha1::new();
        hasher.update(format!("{kind} {}\0", data.len()));
        hasher.update(data);
        match hasher.try_finalize() {
            CollisionResult::Ok(hash) => Ok(Self(hash.into())),
            CollisionResult::Mitigated(hash) | CollisionResult::Collision(hash) => {
                Err(ObjectError::Collision { id: Self(hash.into()) })
            }
        }
    }

    /// The same id as that of a commit.
    pub fn to_commit(self) -> CommitId {
        self.to_string().parse().expect("an object id prints as 40 lower-case hexadecimal digits")
    }
}

impl From<&CommitId> for ObjectId {
    fn from(id: &CommitId) -> Self {
        id.as_str().parse().expect("a commit id has 40 hexadecimal digits")
    }
}

impl FromStr for ObjectId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("object id", text, "40 lower-case hexadecimal digits");
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(invalid()),
        };
        if text.len() != 40 {
            return Err(invalid());
        }
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A commit.
    Commit,
    /// A folder.
    Tree,
    /// A file's content.
    Blob,
    /// An annotated tag.
    Tag,
}

impl ObjectKind {
    /// The kind that git writes as `text`.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Commit, Self::Tree, Self::Blob, Self::Tag].into_iter().find(|kind| kind.name() == text)
    }

    /// The word that git uses in an object's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An object's kind and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Its content, without git's header.
    pub data: Vec<u8>,
}

/// Why an object could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is not there.
    #[error("git object {id} is missing; fetch it again")]
    Missing {
        /// The object.
        id: ObjectId,
    },
    /// Its content is not what its id promises.
    #[error("git object {id} is damaged ({reason}); fetch it again")]
    Damaged {
        /// The object.
        id: ObjectId,
        /// What is wrong.
        reason: String,
    },
    /// Its content was made so that two contents have one SHA-1: an attack, never an accident.
    #[error("git object {id} carries a SHA-1 collision attack and is refused")]
    Collision {
        /// The object.
        id: ObjectId,
    },
    /// It is larger than [`MAX_OBJECT`].
    #[error("git object {id} has {size} bytes, more than the {MAX_OBJECT} that a fleet repository may hold")]
    TooLarge {
        /// The object.
        id: ObjectId,
        /// Its size in bytes.
        size: u64,
    },
    /// It is proven, but not what was asked for or not well formed.
    #[error("git object {id} is not a valid {expected}: {reason}")]
    Malformed {
        /// The object.
        id: ObjectId,
        /// What was expected.
        expected: ObjectKind,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// git could not be run or failed.
    #[error(transparent)]
    Git(#[from] CmdError),
    /// git said something that this program does not understand.
    #[error("git in {repository} {reason}")]
    Conversation {
        /// The repository.
        repository: String,
        /// What happened.
        reason: String,
    },
}

/// So many objects are asked for before the first is answered. With one more, their requests of up to 65 bytes fit into the
/// 4096 bytes that any pipe holds (pipe(7)): else git and we could wait for each other for ever.
pub(crate) const AHEAD: usize = 60;

/// Where objects come from. Implementations only fetch bytes; [`ReadObjects`] proves them.
pub trait ObjectSource {
    /// The object's bytes, not yet proven, or `None` if this source does not have it.
    ///
    /// # Errors
    /// [`ObjectError`] if the source cannot be asked.
    fn load(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError>;

    /// Says which objects are asked for next, most likely in this order, so that a source that has to wait for
    /// each may begin with them. It looks at 60 of them at most, or at none.
    fn soon(&self, _ids: &[ObjectId]) {}

    /// The tags that are kept as approvals of a commit: see `approval`. Not proven, no more than
    /// what [`ObjectSource::load`] returns; a source that keeps none has none.
    ///
    /// # Errors
    /// [`ObjectError`] if the source cannot be asked.
    fn approvals(&self, _of: &CommitId) -> Result<Vec<ObjectId>, ObjectError> {
        Ok(Vec::new())
    }
}

/// Reading with proof: everything returned hashes to the id that was asked for.
pub trait ReadObjects: ObjectSource {
    /// The object if the source has it.
    ///
    /// # Errors
    /// [`ObjectError`] if it is damaged, too large, or the source cannot be asked.
    fn find(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError> {
        let Some(object) = self.load(id)? else { return Ok(None) };
        if object.data.len() as u64 > MAX_OBJECT {
            return Err(ObjectError::TooLarge { id: *id, size: object.data.len() as u64 });
        }
        let real = ObjectId::of(object.kind, &object.data)?;
        if real != *id {
            return Err(ObjectError::Damaged { id: *id, reason: format!("its content hashes to {real}") });
        }
        Ok(Some(object))
    }

    /// The object.
    ///
    /// # Errors
    /// As [`ReadObjects::find`], and [`ObjectError::Missing`].
    fn read(&self, id: &ObjectId) -> Result<Object, ObjectError> {
        self.find(id)?.ok_or(ObjectError::Missing { id: *id })
    }

    /// The content of an object of the given kind.
    ///
    /// # Errors
    /// As [`ReadObjects::read`], and [`ObjectError::Malformed`] if it is of another kind.
    fn content(&self, id: &ObjectId, expected: ObjectKind) -> Result<Vec<u8>, ObjectError> {
        let object = self.read(id)?;
        if object.kind != expected {
            return Err(ObjectError::Malformed {
                id: *id,
                expected,
                reason: format!("it is a {}", object.kind),
            });
        }
        Ok(object.data)
    }

    /// A file's content.
    ///
    /// # Errors
    /// As [`ReadObjects::content`].
    fn blob(&self, id: &ObjectId) -> Result<Vec<u8>, ObjectError> {
        self.content(id, ObjectKind::Blob)
    }

    /// A folder.
    ///
    /// # Errors
    /// As [`ReadObjects::content`], and if it is not well formed.
    fn tree(&self, id: &ObjectId) -> Result<Tree, ObjectError> {
        Tree::parse(id, &self.content(id, ObjectKind::Tree)?)
    }

    /// A commit.
    ///
    /// # Errors
    /// As [`ReadObjects::content`], and if it is not well formed.
    fn commit(&self, id: &CommitId) -> Result<Commit, ObjectError> {
        let data = self.content(&ObjectId::from(id), ObjectKind::Commit)?;
        Commit::parse(id, &data)
    }

    /// A commit, or `None` if this source does not have it.
    ///
    /// # Errors
    /// As [`ReadObjects::commit`] but for [`ObjectError::Missing`].
    fn find_commit(&self, id: &CommitId) -> Result<Option<Commit>, ObjectError> {
        match self.commit(id) {
            Ok(commit) => Ok(Some(commit)),
            Err(ObjectError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<S: ObjectSource + ?Sized> ReadObjects for S {}

/// Objects in memory, for tests and for packs that are checked before they are kept.
#[derive(Debug, Clone, Default)]
pub struct MemoryObjects {
    objects: HashMap<ObjectId, Object>,
}

impl MemoryObjects {
    /// Adds an object and returns its id.
    ///
    /// # Errors
    /// [`ObjectError::Collision`].
    pub fn insert(&mut self, object: Object) -> Result<ObjectId, ObjectError> {
        let id = ObjectId::of(object.kind, &object.data)?;
        self.objects.insert(id, object);
        Ok(id)
    }

    /// Takes an object away; true if it was there.
    pub fn remove(&mut self, id: &ObjectId) -> bool {
        self.objects.remove(id).is_some()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

impl ObjectSource for MemoryObjects {
    fn load(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError> {
        Ok(self.objects.get(id).cloned())
    }

    fn approvals(&self, of: &CommitId) -> Result<Vec<ObjectId>, ObjectError> {
        let approves = |object: &Object| Approval::of_object(object).is_some_and(|found| found.commit == *of);
        Ok(self.objects.iter().filter(|(_, object)| approves(object)).map(|(id, _)| *id).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_git() {
        // What `git hash-object` says of an empty file and of "hello\n", and of the empty tree.
        let check = |kind, data: &[u8], expected: &str| {
            assert_eq!(ObjectId::of(kind, data).unwrap().to_string(), expected);
            assert_eq!(expected.parse::<ObjectId>().unwrap().to_string(), expected);
        };
        check(ObjectKind::Blob, b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        check(ObjectKind::Blob, b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a");
        check(ObjectKind::Tree, b"", "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
    }

    #[test]
    fn wrong_ids_are_refused() {
        for text in ["", "e69de29", &"E6".repeat(20), &"g".repeat(40), &"é".repeat(20)] {
            assert!(text.parse::<ObjectId>().is_err(), "{text}");
        }
    }

    struct Liar;

    impl ObjectSource for Liar {
        fn load(&self, _: &ObjectId) -> Result<Option<Object>, ObjectError> {
            Ok(Some(Object { kind: ObjectKind::Blob, data: b"evil".to_vec() }))
        }
    }

    #[test]
    fn a_source_that_lies_is_found_out() {
        let id = ObjectId::of(ObjectKind::Blob, b"good").unwrap();
        assert!(matches!(Liar.read(&id), Err(ObjectError::Damaged { .. })));
    }
}
