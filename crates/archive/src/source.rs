//! Takes source packages in: a `.dsc` (dsc(5)) with the files that it names beside it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};
use tempfile::TempPath;
use volary_debian::changes::{Changes, ListedFile};
use volary_debian::control::Paragraph;
use volary_host::FileError;
use volary_model::{Component, Digest};

use crate::entry::{PackageEntry, SourceFile, source_folder};
use crate::error::{Error, RefusalReason};
use crate::files;
use crate::intake::{Candidate, Held, Intake};
use crate::sidecar::Extract;

/// Largest `.dsc`; Debian's largest has 100 KB.
const DSC_LIMIT: u64 = 4 << 20;

/// Lists that the index has under other names, or with weaker hashes.
const OWN_FIELDS: [&str; 6] =
    ["Source", "Files", "Checksums-Sha1", "Checksums-Sha256", "Checksums-Sha512", "Directory"];

impl Intake<'_> {
    /// Takes in a source package.
    pub(crate) fn take_source(&self, path: &Path, file: String) -> Result<Candidate, Error> {
        let refused = |reason: RefusalReason| Error::refused(&file)(reason);
        let mut text = String::new();
        File::open(path)
            .and_then(|from| from.take(DSC_LIMIT).read_to_string(&mut text))
            .map_err(|error| refused(RefusalReason::Read(error)))?;
        let dsc = Changes::parse(&text).map_err(|error| refused(error.into()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The `.dsc` first: its hash names the package.
        let bytes = text.as_bytes();
        let sha256 = Digest::from_bytes(Sha256::digest(bytes).into());
        let mut sources = vec![SourceFile { name, sha256, size: bytes.len() as u64 }];
        let mut copies = vec![self.keep_bytes(bytes)?];
        for listed in &dsc.files {
            let (source, copy) = self.take_listed(path, listed, &file)?;
            sources.push(source);
            copies.push(copy);
        }
        let entry = self.source_entry(&dsc, sources).map_err(refused)?;
        let files = copies.into_iter().map(Held::Copy).collect();
        Ok(Candidate { file, entry, files, extract: Extract::default() })
    }

    /// Copies a file that a `.dsc` names, and compares it with what is said of it.
    fn take_listed(
        &self,
        dsc: &Path,
        listed: &ListedFile,
        file: &str,
    ) -> Result<(SourceFile, TempPath), Error> {
        let refused = |reason: RefusalReason| Error::refused(file)(reason);
        let beside = dsc.with_file_name(&listed.name);
        if !beside.is_file() {
            return Err(refused(RefusalReason::MissingFile(listed.name.clone())));
        }
        let unreadable = |error: io::Error| refused(RefusalReason::Read(error));
        let mut from = File::open(&beside).map_err(unreadable)?;
        let mut copy = files::temporary(self.incoming)?;
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut buffer).map_err(unreadable)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            size += count as u64;
            io::Write::write_all(copy.as_file_mut(), &buffer[..count])
                .map_err(FileError::at("write in", self.incoming))?;
        }
        let mismatch = |what, expected: String, found: String| {
            let name = listed.name.clone();
            refused(RefusalReason::Mismatch { name, what, expected, found })
        };
        if size != listed.size {
            return Err(mismatch("size", listed.size.to_string(), size.to_string()));
        }
        let sha256 = Digest::from_bytes(hash.finalize().into());
        if sha256.hex() != listed.sha256 {
            return Err(mismatch("SHA-256", listed.sha256.clone(), sha256.hex()));
        }
        Ok((SourceFile { name: listed.name.clone(), sha256, size }, copy.into_temp_path()))
    }

    fn keep_bytes(&self, bytes: &[u8]) -> Result<TempPath, Error> {
        let mut copy = files::temporary(self.incoming)?;
        io::Write::write_all(copy.as_file_mut(), bytes).map_err(FileError::at("write in", self.incoming))?;
        Ok(copy.into_temp_path())
    }

    fn source_entry(&self, dsc: &Changes, files: Vec<SourceFile>) -> Result<PackageEntry, RefusalReason> {
        let (sha256, size) = (files[0].sha256, files[0].size);
        Ok(PackageEntry {
            name: dsc.source.parse()?,
            version: dsc.version.clone(),
            architecture: "source".parse()?,
            component: Component::main(),
            source: dsc.source.parse()?,
            source_version: dsc.version.clone(),
            sha256,
            size,
            stanza: stanza(&dsc.paragraph, &dsc.source, &files).into(),
            files,
            translations: std::collections::BTreeMap::new(),
            provenance: Arc::clone(self.provenance),
            included_at: self.now,
            relations: OnceLock::new(),
        })
    }
}

/// The paragraph of the Sources index.
pub(crate) fn stanza(dsc: &Paragraph, source: &str, files: &[SourceFile]) -> String {
    let mut paragraph = Paragraph::new();
    paragraph.set("Package", source);
    let foreign = |name: &str| !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name));
    for (name, value) in dsc.fields().filter(|(name, _)| foreign(name)) {
        paragraph.set(name, value);
    }
    paragraph.set("Directory", source_folder(&files[0].sha256));
    let lines = files.iter().map(|file| format!("\n {} {} {}", file.sha256.hex(), file.size, file.name));
    paragraph.set("Checksums-Sha256", lines.collect::<String>());
    paragraph.to_string()
}
