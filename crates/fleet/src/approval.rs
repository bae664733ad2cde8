//! Approvals: how more people than one sign for a commit.
//!
//! An approval is an annotated git tag on a commit, signed with the person's SSH key, whose message
//! names the commit, its files and the stage. It is an object as any other: it hashes to its id,
//! travels with the commit, and means nothing to another commit or stage. Where repositories keep
//! them is said here; whether they are enough is decided in `step`.

use volary_model::{CommitId, StageName};

use crate::commit::{Person, Signed, id_of, person};
use crate::object::{Object, ObjectError, ObjectId, ObjectKind, ObjectSource, ReadObjects};

/// Where a repository keeps approvals: `refs/approvals/COMMIT/STAGE/TAG`.
pub const APPROVAL_REFS: &str = "refs/approvals/";

/// The most approvals of one commit that are looked at: more than any quorum asks for.
pub(crate) const MAX_APPROVALS: usize = 100;

const COMMIT: &str = "Volary-Commit";
const TREE: &str = "Volary-Tree";
const STAGE: &str = "Volary-Stage";

const ARMOR: &str = "-----BEGIN SSH SIGNATURE-----\n";

/// A signed statement that a commit may go to a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The tag's own id.
    pub id: ObjectId,
    /// The commit: what the stage gets, or what a promotion merges into it.
    pub commit: CommitId,
    /// The files of that commit.
    pub tree: ObjectId,
    /// The stage.
    pub stage: StageName,
    /// Who made the tag and when, as that person's clock said.
    pub tagger: Person,
    /// The signature.
    pub signed: Signed,
}

/// The message of the tag that approves a commit for a stage.
pub fn approval_message(commit: &CommitId, tree: &ObjectId, stage: &StageName) -> String {
    format!(
        "Approve {} for {stage}\n\n{COMMIT}: {commit}\n{TREE}: {tree}\n{STAGE}: {stage}\n",
        commit.short()
    )
}

/// The ref that keeps an approval. It names the tag, so that none takes the place of another.
pub fn approval_ref(commit: &CommitId, stage: &StageName, tag: &ObjectId) -> String {
    format!("{APPROVAL_REFS}{commit}/{stage}/{tag}")
}

/// The commit, stage and tag of a ref that keeps an approval.
pub fn read_approval_ref(name: &str) -> Option<(CommitId, StageName, ObjectId)> {
    let mut parts = name.strip_prefix(APPROVAL_REFS)?.split('/');
    let (commit, stage, tag) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((commit.parse().ok()?, stage.parse().ok()?, tag.parse().ok()?))
}

impl Approval {
    /// Parses a tag object. Only the form that [`approval_message`] gives passes.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn parse(id: &ObjectId, data: &[u8]) -> Result<Self, ObjectError> {
        parse(id, data).map_err(|reason| ObjectError::Malformed {
            id: *id,
            expected: ObjectKind::Tag,
            reason,
        })
    }

    /// The approval in an object, if it is one.
    pub fn of_object(object: &Object) -> Option<Self> {
        if object.kind != ObjectKind::Tag {
            return None;
        }
        let id = ObjectId::of(object.kind, &object.data).ok()?;
        Self::parse(&id, &object.data).ok()
    }

    /// The ref that keeps it.
    pub fn ref_name(&self) -> String {
        approval_ref(&self.commit, &self.stage, &self.id)
    }
}

/// The approvals that a source keeps of a commit, as far as they can be read.
pub(crate) fn approvals_of(
    objects: &dyn ObjectSource,
    commit: &CommitId,
) -> Result<Vec<Approval>, ObjectError> {
    let mut approvals = Vec::new();
    for id in objects.approvals(commit)?.iter().take(MAX_APPROVALS) {
        let Some(object) = objects.find(id)? else { continue };
        approvals.extend(Approval::of_object(&object).filter(|approval| approval.commit == *commit));
    }
    Ok(approvals)
}

fn parse(id: &ObjectId, data: &[u8]) -> Result<Approval, String> {
    let text = str::from_utf8(data).map_err(|_| "it is not text")?;
    let armor = text.find(ARMOR).ok_or("it has no SSH signature")?;
    let (payload, armored) = text.split_at(armor);
    if armored[ARMOR.len()..].contains(ARMOR) {
        return Err("it has two signatures".into());
    }
    let (header, message) = payload.split_once("\n\n").ok_or("its header does not end")?;
    let mut lines = header.lines();
    let mut line = |key: &str| {
        let value = lines.next().and_then(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.map(str::to_owned).ok_or_else(|| format!("its {key} line is missing or out of order"))
    };
    let object = id_of(line("object")?.as_bytes())?.to_commit();
    if line("type")? != "commit" {
        return Err("it is not a tag of a commit".into());
    }
    line("tag")?;
    let tagger = person(line("tagger")?.as_bytes())?;
    if lines.next().is_some() {
        return Err("its header has more lines than a tag's".into());
    }
    let (tree, stage) = statement(&object, message)?;
    let signed = Signed { armored: armored.to_owned(), payload: payload.as_bytes().to_vec() };
    Ok(Approval { id: *id, commit: object, tree, stage, tagger, signed })
}

/// Reads the message. A form of its own and nothing else: what a person signs for other ends can
/// then never be taken for an approval.
fn statement(object: &CommitId, message: &str) -> Result<(ObjectId, StageName), String> {
    let value = |key: &str| {
        let mut found = message.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        found.next().ok_or_else(|| format!("it has no line {key}"))
    };
    let tree: ObjectId = value(TREE)?.parse().map_err(|error| format!("{error}"))?;
    let stage: StageName = value(STAGE)?.parse().map_err(|error| format!("{error}"))?;
    if message != approval_message(object, &tree, &stage) {
        return Err("its message is not that of an approval of this commit".into());
    }
    Ok((tree, stage))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(change: impl FnOnce(String) -> String) -> Result<Approval, String> {
        let commit: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let tree: ObjectId = "4b825dc642cb6eb9a060e54bf8d69288fbee4904".parse().unwrap();
        let stage: StageName = "production".parse().unwrap();
        let message = approval_message(&commit, &tree, &stage);
        let text = format!(
            "object {commit}\ntype commit\ntag x\ntagger Ann <a@x> 1700000000 +0000\n\n{message}\
             {ARMOR}abc\n-----END SSH SIGNATURE-----\n"
        );
        let text = change(text);
        let id = ObjectId::of(ObjectKind::Tag, text.as_bytes()).unwrap();
        Approval::parse(&id, text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_approval_is_read() {
        let approval = tag(|text| text).unwrap();
        assert_eq!(approval.stage.as_str(), "production");
        assert!(approval.signed.payload.ends_with(b"Volary-Stage: production\n"));
        assert!(approval.signed.armored.starts_with("-----BEGIN SSH"));
        let (commit, stage, id) = read_approval_ref(&approval.ref_name()).unwrap();
        assert_eq!((commit, stage, id), (approval.commit, approval.stage, approval.id));
    }

    #[test]
    fn whatever_is_not_exactly_an_approval_is_none() {
        let check = |change: &dyn Fn(String) -> String, expected: &str| {
            let error = tag(change).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        let replace = |from: &'static str, to: &'static str| move |text: String| text.replacen(from, to, 1);
        check(&replace("-----BEGIN", "-----BEGUN"), "no SSH signature");
        check(&|text| format!("{text}{ARMOR}"), "two signatures");
        check(&replace("type commit", "type tree"), "not a tag of a commit");
        check(&replace("type commit\n", ""), "type line is missing");
        check(&replace("tagger Ann <a@x>", "tagger Ann"), "no person and time");
        check(&replace("+0000\n", "+0000\nx y\n"), "more lines");
        check(&replace("object 0123", "object 4567"), "not that of an approval of this commit");
        check(&replace("Volary-Commit: 0123", "Volary-Commit: 4567"), "not that of an approval");
        check(&replace("Approve 0123", "Approve 4567"), "not that of an approval");
        check(&replace("Volary-Stage: production", "Volary-Stage: production\nand more"), "not that of an");
        check(&replace("Volary-Stage: production\n", ""), "no line Volary-Stage");
        check(&replace("Volary-Tree: 4b", "Volary-Tree: x"), "object id");
        assert!(read_approval_ref("refs/approvals/x/production/y").is_none());
        assert!(read_approval_ref("refs/heads/master").is_none());
    }
}
