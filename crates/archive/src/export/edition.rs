//! A suite as it is exported. It is the one that is served, byte for byte, with one addition on
//! request: `Release` and `Release.gpg` for clients that read no `InRelease`.

use volary_debian::clearsign;
use volary_debian::release::Release;

use crate::export::{ExportError, ExportOptions};

/// The files that name all else of a suite, in the order in which they are put: the last one is
/// what apt reads.
#[derive(Debug)]
pub(crate) struct Edition {
    pub(crate) suite: String,
    pub(crate) release: Release,
    /// Names below the suite and contents.
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
}

impl Edition {
    /// Takes an `InRelease` apart.
    pub(crate) fn new(suite: &str, inrelease: String, options: &ExportOptions) -> Result<Self, ExportError> {
        let key = format!("dists/{suite}/InRelease");
        let release = Release::parse(&inrelease).map_err(|error| ExportError::damaged(&key, &error))?;
        let mut files = Vec::new();
        if options.detached {
            let signed = clearsign::split(&inrelease).map_err(|error| ExportError::damaged(&key, &error))?;
            let signed = signed.ok_or_else(|| ExportError::damaged(&key, "it is not signed"))?;
            // A clearsigned text ends before its last line end. Without that, the signature holds
            // for the text alone too, and no key is needed to detach it.
            let text = signed.payload.strip_suffix('\n').unwrap_or(&signed.payload);
            files.push(("Release", text.as_bytes().to_vec()));
            files.push(("Release.gpg", format!("{}\n", signed.signature).into_bytes()));
        }
        files.push(("InRelease", inrelease.into_bytes()));
        Ok(Self { suite: suite.to_owned(), release, files })
    }

    /// The key of one of its files.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("dists/{}/{name}", self.suite)
    }
}
