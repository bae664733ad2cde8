//! The signed head of a foreign suite: fetched, its signature and dates judged, its indexes named.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use volary_debian::clearsign;
use volary_debian::release::{IndexFile, Release};
use volary_model::Digest;

use super::error::UpstreamError;
use super::fetch::Fetch;
use super::keyring::Trust;

/// Largest Release file. Debian's has 150 kB.
const RELEASE_LIMIT: u64 = 16 << 20;

/// Largest detached signature.
const SIGNATURE_LIMIT: u64 = 1 << 20;

/// How far ahead of our clock a publication may be: clocks of machines in one room differ by less.
const AHEAD: SignedDuration = SignedDuration::from_mins(10);

/// The compressions of an index, best first, with the ending of the name.
const FORMS: [&str; 4] = [".xz", ".zst", ".gz", ""];

/// The head of a suite at some time: what a mirror remembers of its last sync.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Its `Date`.
    pub date: Timestamp,
    /// SHA-256 of its InRelease, or of its Release where there is none.
    pub release: Digest,
}

/// A suite whose head was fetched and found good.
#[derive(Debug)]
pub struct Publication {
    /// Where it is.
    pub(super) place: String,
    /// Its name, as asked for.
    pub suite: String,
    /// What to remember of it.
    pub seen: Seen,
    pub(super) release: Release,
}

/// An index to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// The compressed file from the root, under its name.
    pub(super) path: String,
    /// The same file under its hash, if the publication has that.
    pub(super) by_hash: Option<String>,
    pub(super) packed: IndexFile,
    pub(super) plain: IndexFile,
}

fn folder(suite: &str) -> String {
    format!("dists/{suite}")
}

/// Refuses names that are no plain path below `dists/`.
fn check_suite(suite: &str) -> Result<(), UpstreamError> {
    let part = |part: &str| !part.is_empty() && volary_debian::is_file_name(part);
    if suite.split('/').all(part) {
        return Ok(());
    }
    let problem = "name a suite that lies below dists/, such as bookworm; \
                   flat repositories (a suite that ends with a slash) are not read"
        .to_owned();
    Err(UpstreamError::Release { path: folder(suite), problem })
}

impl Publication {
    /// Fetches the head of a suite and judges it. `before` is what the last sync saw.
    ///
    /// # Errors
    /// [`UpstreamError`]: not there, not signed by whom we trust, stale, replayed, not understood.
    pub fn open(
        fetch: &dyn Fetch,
        suite: &str,
        trust: &Trust,
        before: Option<&Seen>,
        now: Timestamp,
    ) -> Result<Self, UpstreamError> {
        check_suite(suite)?;
        let place = fetch.place();
        let head = Head::fetch(fetch, suite, &place)?;
        let unusable = |problem: String| UpstreamError::Release { path: head.path.clone(), problem };
        let payload = head.payload(trust, now)?;
        let release = Release::parse(&payload).map_err(|error| unusable(error.to_string()))?;
        if release.files.is_empty() {
            return Err(unusable("it has no SHA256 list".to_owned()));
        }
        let date = release.date().map_err(|error| unusable(error.to_string()))?;
        let date = date.ok_or_else(|| unusable("it has no Date".to_owned()))?;
        let until = release.valid_until().map_err(|error| unusable(error.to_string()))?;
        let seen = Seen { date, release: Digest::from_bytes(Sha256::digest(&head.bytes).into()) };
        let publication = Self { place, suite: suite.to_owned(), seen, release };
        publication.check_name(&head.path)?;
        publication.check_dates(until, before, now)?;
        Ok(publication)
    }

    /// A signed Release of another suite must not pass for this one.
    fn check_name(&self, path: &str) -> Result<(), UpstreamError> {
        let names = ["Suite", "Codename"].map(|field| self.release.fields.get(field));
        let named: Vec<&str> = names.into_iter().flatten().collect();
        // apt compares the names in the same way, after taking a part off a suite with a slash.
        let short = self.suite.rsplit_once('/').map_or(self.suite.as_str(), |(first, _)| first);
        if named.is_empty() || named.iter().any(|name| *name == self.suite || *name == short) {
            return Ok(());
        }
        let (says, wanted) = (named.join(" and "), self.suite.clone());
        Err(UpstreamError::OtherSuite { path: path.to_owned(), says, wanted })
    }

    fn check_dates(
        &self,
        until: Option<Timestamp>,
        before: Option<&Seen>,
        now: Timestamp,
    ) -> Result<(), UpstreamError> {
        let (place, suite, date) = (self.place.clone(), self.suite.clone(), self.seen.date);
        if let Some(until) = until.filter(|until| *until < now) {
            return Err(UpstreamError::Expired { place, suite, until });
        }
        if date.duration_since(now) > AHEAD {
            return Err(UpstreamError::Ahead { place, suite, date });
        }
        match before {
            Some(before) if before.date > date => {
                Err(UpstreamError::Backwards { place, suite, date, had: before.date })
            }
            _ => Ok(()),
        }
    }

    /// A field of its Release file.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.release.fields.get(name)
    }

    /// The components that have an index.
    pub fn components(&self) -> Vec<String> {
        self.parts(|path| {
            let parts = path.split_once("/binary-").or_else(|| path.split_once("/source/"))?;
            Some(parts.0)
        })
    }

    /// The architectures that have an index, without `all`.
    pub fn architectures(&self) -> Vec<String> {
        self.parts(|path| {
            let (_, rest) = path.split_once("/binary-")?;
            rest.split_once('/').map(|(architecture, _)| architecture).filter(|name| *name != "all")
        })
    }

    fn parts<'a>(&'a self, part: impl Fn(&'a str) -> Option<&'a str>) -> Vec<String> {
        let all: std::collections::BTreeSet<&str> =
            self.release.files.keys().filter_map(|path| part(path)).collect();
        all.into_iter().map(str::to_owned).collect()
    }

    /// The index `below` its suite, such as `main/binary-amd64/Packages`, in its best form.
    pub(super) fn index(&self, below: &str) -> Option<Index> {
        let by_hash = self.field("Acquire-By-Hash").is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        let plain = self.release.files.get(below)?;
        FORMS.iter().find_map(|form| {
            let name = format!("{below}{form}");
            let packed = self.release.files.get(&name)?;
            let path = format!("{}/{name}", folder(&self.suite));
            let by_hash = by_hash.then(|| {
                let (folder, _) = path.rsplit_once('/').expect("it has a folder");
                format!("{folder}/by-hash/SHA256/{}", packed.sha256)
            });
            Some(Index { path, by_hash, packed: packed.clone(), plain: plain.clone() })
        })
    }

    /// The Packages indexes of a component for an architecture: its own, and that of the packages
    /// for all if they are kept apart.
    pub(super) fn packages(&self, component: &str, architecture: &str) -> Result<Vec<Index>, UpstreamError> {
        let lacks = |what, name: &str, there: Vec<String>| UpstreamError::Lacks {
            suite: format!("{} of {}", self.suite, self.place),
            what,
            name: name.to_owned(),
            there: if there.is_empty() { "none".to_owned() } else { there.join(", ") },
        };
        let own = self.index(&format!("{component}/binary-{architecture}/Packages"));
        let Some(own) = own else {
            let components = self.components();
            return Err(if components.iter().any(|there| there == component) {
                lacks("architecture", architecture, self.architectures())
            } else {
                lacks("component", component, components)
            });
        };
        // Debian lists an index of the packages for all, but has them in the others too.
        let apart = self.field("No-Support-for-Architecture-all") != Some("Packages");
        let all = self.index(&format!("{component}/binary-all/Packages")).filter(|_| apart);
        Ok(std::iter::once(own).chain(all).collect())
    }
}

/// A Release file as it was fetched.
struct Head {
    path: String,
    bytes: Vec<u8>,
    /// The file beside it, where the signature is not inside.
    signature: Option<Vec<u8>>,
    is_clearsigned: bool,
}

impl Head {
    fn fetch(fetch: &dyn Fetch, suite: &str, place: &str) -> Result<Self, UpstreamError> {
        let below = folder(suite);
        let path = format!("{below}/InRelease");
        if let Some(bytes) = fetch.small(&path, RELEASE_LIMIT)? {
            return Ok(Self { path, bytes, signature: None, is_clearsigned: true });
        }
        let path = format!("{below}/Release");
        let Some(bytes) = fetch.small(&path, RELEASE_LIMIT)? else {
            return Err(UpstreamError::NoSuite {
                place: place.to_owned(),
                suite: suite.to_owned(),
                path: below,
            });
        };
        let signature = fetch.small(&format!("{path}.gpg"), SIGNATURE_LIMIT)?;
        Ok(Self { path, bytes, signature, is_clearsigned: false })
    }

    /// What the signature covers, once that is found good.
    fn payload(&self, trust: &Trust, now: Timestamp) -> Result<String, UpstreamError> {
        let path = || self.path.clone();
        let unusable = |problem: String| UpstreamError::Release { path: path(), problem };
        let text = std::str::from_utf8(&self.bytes).map_err(|_| unusable("it is not UTF-8".to_owned()))?;
        // Also where the signature counts: nothing may stand outside of its frame.
        let plain = clearsign::payload(text).map_err(|error| unusable(error.to_string()))?.into_owned();
        let Trust::Keys(keyring) = trust else { return Ok(plain) };
        let checked = match (&self.signature, self.is_clearsigned) {
            // The text as the one who checked it read it, so that no two readings can differ.
            (_, true) => keyring.check_clearsigned(text, now),
            (Some(signature), false) => {
                keyring.check_detached(&self.bytes, signature, now).map(|()| text.to_owned())
            }
            (None, false) => Err("there is none; say --unsigned if you trust it as it is".to_owned()),
        };
        checked.map_err(|problem| UpstreamError::Signature { path: path(), problem })
    }
}
