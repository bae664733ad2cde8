//! Proves that an export is whole, as a client sees it: signatures, and the content of all that
//! the suites name.

use std::sync::Mutex;

use jiff::Timestamp;

use crate::archive::Archive;
use crate::export::names::Named;
use crate::export::note::Note;
use crate::export::plan::{self, Object};
use crate::export::run::{PUBLIC_KEY, in_parallel};
use crate::export::target::Target;
use crate::export::{ExportError, ExportOptions, Run};
use crate::key;

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// The suites that are there.
    pub suites: Vec<String>,
    /// How many objects were read and hashed.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong: the key and the problem, in order of keys.
    pub problems: Vec<(String, String)>,
    /// Suites whose state in the archive is a later one; the next export brings it.
    pub behind: Vec<String>,
}

impl Archive {
    /// Reads all that is in a target and compares it with what its signed suites say. Changes
    /// nothing.
    ///
    /// # Errors
    /// That the target cannot be read at all; what is wrong in it is in the report.
    pub fn verify_export(&self, target: &dyn Target, now: Timestamp) -> Result<VerifyReport, ExportError> {
        let options = ExportOptions::default();
        let run = Run { target, options: &options, now, on_event: &|_| {} };
        let mut report = VerifyReport::default();
        Note::read(target, &self.export_name()?)?;
        let inventory = target.list()?;
        let mut objects: Vec<Object> = Vec::new();
        for suite in inventory.keys().filter_map(|key| plan::suite_of(key)) {
            report.suites.push(suite.to_owned());
            match run.names_there(suite) {
                Err(ExportError::NotTaken { key, problem, .. }) => report.problems.push((key, problem)),
                Err(other) => return Err(other),
                Ok((text, named)) => {
                    self.check_release(suite, &text, now, &mut report);
                    objects.extend(self.changelogs(std::slice::from_ref(&named), |_, _| true)?);
                    objects.extend(all_of(named));
                }
            }
        }
        if target.read(PUBLIC_KEY)?.as_deref() != Some(self.public_key().as_bytes()) {
            report.problems.push((PUBLIC_KEY.to_owned(), "it is not the archive's public key".to_owned()));
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.dedup_by(|a, b| a.key == b.key);
        report.objects = objects.len();
        report.bytes = objects.iter().map(|object| object.size).sum();
        let problems = Mutex::new(Vec::new());
        in_parallel(&objects, |object| {
            let problem = match target.digest(&object.key)? {
                None => "it is missing".to_owned(),
                Some(found) if found != object.sha256 => format!("its content is {found}"),
                Some(_) => return Ok(()),
            };
            problems.lock().expect("nobody panics with this lock").push((object.key.clone(), problem));
            Ok(())
        })?;
        report.problems.extend(problems.into_inner().expect("nobody panics with this lock"));
        report.problems.sort();
        report.problems.dedup();
        Ok(report)
    }

    fn check_release(&self, suite: &str, text: &str, now: Timestamp, report: &mut VerifyReport) {
        let key = format!("dists/{suite}/InRelease");
        if let Err(error) = key::verify(text, &[self.public_key()], now) {
            report.problems.push((key.clone(), format!("its signature is not this archive's: {error}")));
        }
        let own = volary_host::read_to_string(&self.public_dir().join(&key));
        if own.is_ok_and(|own| own != text) {
            report.behind.push(suite.to_owned());
        }
    }
}

/// All objects of a suite, also under their second names.
fn all_of(named: Named) -> impl Iterator<Item = Object> {
    let copies = named.copies.into_iter().map(|(key, object)| Object { key, ..object });
    named.objects.into_iter().chain(copies)
}
