//! All that a suite names: index files, differences, packages. Read out of its `InRelease` and
//! the indexes that this lists, each checked against its hash, so that what comes out is whole
//! and of one moment whatever is published meanwhile.

use std::collections::BTreeSet;
use std::io::Read as _;

use volary_debian::control::Paragraphs;
use volary_debian::packages;
use volary_debian::release::{IndexFile, Release};
use volary_model::Digest;

use crate::export::ExportError;
use crate::export::plan::Object;
use crate::export::target::Kind;
use crate::pdiff;
use crate::render::Blob;
use crate::sidecar;

/// Reads an object of the tree; `None` if it is not there.
pub(crate) type Read<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>, ExportError> + 'a;

/// What a suite names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// What never changes.
    pub(crate) objects: Vec<Object>,
    /// Second names of index files: the name that simple clients know, and the index.
    pub(crate) copies: Vec<(String, Object)>,
    /// Where apt looks for the changelogs of its packages. Nobody signs them, and a package may
    /// have none.
    pub(crate) changelogs: BTreeSet<String>,
}

/// The endings of compressed indexes, in the order in which they are read here.
const FORMS: [&str; 3] = [".gz", ".zst", ".xz"];

/// Collects all that a suite names.
pub(crate) fn of_suite(suite: &str, release: &Release, read: &Read<'_>) -> Result<Named, ExportError> {
    let mut named = Named::default();
    for (path, file) in &release.files {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let plain = FORMS.iter().find_map(|form| name.strip_suffix(form)).unwrap_or(name);
        let is_list = folder.ends_with(".diff");
        if plain == name
            && !is_list
            && FORMS.iter().any(|form| release.files.contains_key(&format!("{path}{form}")))
        {
            // apt wants the plain form listed, and nobody serves it.
            continue;
        }
        let object = index(suite, folder, file)?;
        if let Some(base) = folder.strip_suffix(".diff").filter(|_| name == "Index") {
            differences(suite, base, &object, read, &mut named)?;
        }
        named.copies.push((format!("dists/{suite}/{path}"), object.clone()));
        named.objects.push(object);
    }
    for (path, file) in &release.files {
        let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
        match name {
            "Packages" => packages_of(&content(suite, release, path, file, read)?, path, &mut named)?,
            "Sources" => sources_of(&content(suite, release, path, file, read)?, path, &mut named)?,
            _ => {}
        }
    }
    Ok(named)
}

fn index(suite: &str, folder: &str, file: &IndexFile) -> Result<Object, ExportError> {
    let key = format!("dists/{suite}/{folder}/by-hash/SHA256/{}", file.sha256);
    let sha256 = digest(&file.sha256, &key)?;
    Ok(Object { key, size: file.size, sha256, kind: Kind::Index })
}

fn digest(hex: &str, key: &str) -> Result<Digest, ExportError> {
    Digest::from_hex(hex).map_err(|_| ExportError::damaged(key, "it is listed with an unusable hash"))
}

/// The differences that an `Index` offers; apt fetches them by their names.
fn differences(
    suite: &str,
    base: &str,
    index: &Object,
    read: &Read<'_>,
    named: &mut Named,
) -> Result<(), ExportError> {
    let bytes = whole(index, read)?;
    let text = String::from_utf8_lossy(&bytes);
    for (name, size, sha256) in pdiff::downloads(&text) {
        let key = format!("dists/{suite}/{base}.diff/{name}");
        named.objects.push(Object { sha256: digest(sha256, &key)?, key, size, kind: Kind::Index });
    }
    Ok(())
}

/// An object's bytes, which have its hash.
fn whole(object: &Object, read: &Read<'_>) -> Result<Vec<u8>, ExportError> {
    let bytes = read(&object.key)?.ok_or_else(|| ExportError::damaged(&object.key, "it is missing"))?;
    if Blob::of(&bytes).sha256 == object.sha256 {
        return Ok(bytes);
    }
    Err(ExportError::damaged(&object.key, "it does not have its hash"))
}

/// The plain text of an index, out of any compressed form of it.
fn content(
    suite: &str,
    release: &Release,
    path: &str,
    plain: &IndexFile,
    read: &Read<'_>,
) -> Result<String, ExportError> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let form = FORMS.iter().find_map(|form| Some((*form, release.files.get(&format!("{path}{form}"))?)));
    let (form, file) = form.unwrap_or(("", plain));
    let object = index(suite, folder, file)?;
    let bytes = whole(&object, read)?;
    let wrong = |problem: &dyn std::fmt::Display| ExportError::damaged(&object.key, problem);
    let mut text = Vec::new();
    // One byte more than there should be, so that a longer one is seen.
    let limit = plain.size + 1;
    match form {
        ".gz" => flate2::read::MultiGzDecoder::new(bytes.as_slice()).take(limit).read_to_end(&mut text),
        ".zst" => zstd::Decoder::new(bytes.as_slice())
            .and_then(|text_of| text_of.take(limit).read_to_end(&mut text)),
        "" => bytes.as_slice().take(limit).read_to_end(&mut text),
        _ => return Err(wrong(&"an index with neither a .gz nor a .zst form cannot be exported")),
    }
    .map_err(|error| wrong(&error))?;
    if Blob::of(&text).sha256.hex() != plain.sha256 {
        return Err(wrong(&"it is not the compressed form of what is listed as plain"));
    }
    String::from_utf8(text).map_err(|error| wrong(&error))
}

fn packages_of(text: &str, path: &str, named: &mut Named) -> Result<(), ExportError> {
    let component = path.split('/').next().unwrap_or(path);
    for package in packages::iterate(text) {
        let package = package.map_err(|error| ExportError::damaged(path, &error))?;
        let changelog = sidecar::changelog_key(component, &package.source, package.source_version.as_str());
        if !package.source.contains('/') {
            named.changelogs.insert(changelog);
        }
        let sha256 = digest(&package.sha256, &package.filename)?;
        named.objects.push(Object { key: package.filename, size: package.size, sha256, kind: Kind::Package });
    }
    Ok(())
}

fn sources_of(text: &str, path: &str, named: &mut Named) -> Result<(), ExportError> {
    for paragraph in Paragraphs::new(text) {
        let paragraph = paragraph.map_err(|error| ExportError::damaged(path, &error))?;
        let folder = paragraph.get("Directory").unwrap_or(".").trim();
        for line in paragraph.lines("Checksums-Sha256") {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [sha256, size, name] = words[..] else {
                return Err(ExportError::damaged(
                    path,
                    &format!("{line:?} is not a hash, a size and a name"),
                ));
            };
            let key = if folder == "." { name.to_owned() } else { format!("{folder}/{name}") };
            let size = size.parse().map_err(|error| ExportError::damaged(path, &error))?;
            if key.starts_with('/') || key.split('/').any(|part| part == ".." || part.is_empty()) {
                return Err(ExportError::damaged(path, &format!("{key:?} leads out of the archive")));
            }
            named.objects.push(Object { sha256: digest(sha256, &key)?, key, size, kind: Kind::Package });
        }
    }
    Ok(())
}
