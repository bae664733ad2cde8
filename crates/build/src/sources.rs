//! Additional archives, as apt inside the chroot is told of them. Not here: who fills them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use volary_host::{FileError, create_dir, write_atomic};

use crate::isolation::Bind;

/// Where an additional archive is.
#[derive(Debug, Clone)]
pub enum AptLocation {
    /// A folder of this machine with `dists` in it.
    Folder(PathBuf),
    /// Somewhere else.
    Url {
        /// What stands in an apt source.
        url: String,
        /// The certificate authority of that server (PEM), if it is none that everybody knows.
        ca: Option<String>,
    },
}

/// An additional archive to take build dependencies from, so that own packages can need each other.
#[derive(Debug, Clone)]
pub struct AptSource {
    /// Where it is.
    pub location: AptLocation,
    /// The suite in it: `rolling`.
    pub suite: String,
    /// Its components: `main`.
    pub components: Vec<String>,
    /// The OpenPGP public key that signs it, in ASCII armour.
    pub key: String,
}

/// Where local archives are seen inside.
fn inside(index: usize) -> String {
    format!("/volary/archive-{index}")
}

/// What makes local archives visible inside.
pub(crate) fn binds(sources: &[AptSource]) -> impl Iterator<Item = Bind> {
    sources.iter().enumerate().filter_map(|(index, source)| match &source.location {
        AptLocation::Folder(folder) => {
            Some(Bind { source: folder.clone(), target: inside(index), writable: false })
        }
        AptLocation::Url { .. } => None,
    })
}

/// A digest of all that these archives offer, if that can be told without asking a server.
pub(crate) fn state(sources: &[AptSource]) -> Option<Vec<u8>> {
    let mut hasher = Sha256::new();
    for source in sources {
        let AptLocation::Folder(folder) = &source.location else { return None };
        hasher.update(deb822(source, &folder.to_string_lossy()));
        hasher.update(volary_host::read(&folder.join("dists").join(&source.suite).join("InRelease")).ok()?);
    }
    Some(hasher.finalize().to_vec())
}

/// Puts the extra sources into the folder that becomes the upper one of the view.
pub(crate) fn write(sources: &[AptSource], upper: &Path) -> Result<(), FileError> {
    if sources.is_empty() {
        return Ok(());
    }
    let lists = upper.join("etc/apt/sources.list.d");
    let settings = upper.join("etc/apt/apt.conf.d");
    create_dir(&lists)?;
    create_dir(&settings)?;
    for (index, source) in sources.iter().enumerate() {
        let uri = match &source.location {
            AptLocation::Folder(_) => format!("file:{}", inside(index)),
            AptLocation::Url { url, ca } => {
                if let Some(ca) = ca {
                    let file = format!("volary-{index}.pem");
                    let host = url.split("://").nth(1).unwrap_or_default();
                    let host = host.split(['/', ':']).next().unwrap_or_default();
                    let line =
                        format!("Acquire::https::{host}::CAInfo \"/etc/apt/sources.list.d/{file}\";\n");
                    put(&lists.join(file), ca)?;
                    put(&settings.join(format!("90volary-{index}")), &line)?;
                }
                url.clone()
            }
        };
        put(&lists.join(format!("volary-{index}.sources")), &deb822(source, &uri))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<(), FileError> {
    write_atomic(path, text.as_bytes(), 0o644)
}

/// The source in the format of sources.list(5), with its key inside.
fn deb822(source: &AptSource, uri: &str) -> String {
    let mut text = format!("Types: deb\nURIs: {uri}\nSuites: {}\n", source.suite);
    if !source.components.is_empty() {
        writeln!(text, "Components: {}", source.components.join(" ")).expect("a String takes any write");
    }
    text.push_str("Signed-By:\n");
    for line in source.key.trim_end().lines() {
        let line = if line.trim().is_empty() { "." } else { line };
        writeln!(text, " {line}").expect("a String takes any write");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_carries_its_key() {
        let source = AptSource {
            location: AptLocation::Folder("/srv".into()),
            suite: "rolling".to_owned(),
            components: vec!["main".to_owned()],
            key: "-----BEGIN-----\n\nabc\n-----END-----\n".to_owned(),
        };
        assert_eq!(
            deb822(&source, "file:/volary/archive-0"),
            "Types: deb\nURIs: file:/volary/archive-0\nSuites: rolling\nComponents: main\n\
             Signed-By:\n -----BEGIN-----\n .\n abc\n -----END-----\n"
        );
    }
}
