//! Reads a commit object: its tree, parents, people, and what exactly was signed.
//!
//! Not here: whether the signature is good (`signature`) and what it allows (`step`).

use volary_model::CommitId;

use crate::object::{ObjectError, ObjectId, ObjectKind};

/// More parents than any merge of a fleet has; a bound against hostile commits.
const MAX_PARENTS: usize = 32;

/// A person and a time, as in a commit's `author` and `committer` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// What stands between the angle brackets.
    pub email: String,
    /// Seconds since 1970, UTC, as that person's clock said.
    pub seconds: i64,
}

/// A signature and the bytes it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The armored signature: of SSH, OpenPGP or X.509.
    pub armored: String,
    /// The commit without its signature header.
    pub payload: Vec<u8>,
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its id.
    pub id: CommitId,
    /// The folder it records.
    pub tree: ObjectId,
    /// The commits before it; the first is the branch it was made on.
    pub parents: Vec<CommitId>,
    /// Who wrote it.
    pub author: Person,
    /// Who committed it.
    pub committer: Person,
    /// The message; bytes that are not UTF-8 are replaced.
    pub message: String,
    /// The signature if there is one.
    pub signed: Option<Signed>,
}

impl Commit {
    /// Parses the content of a commit object. Only what git itself writes passes: fields in their
    /// order, one signature, no zero bytes in the header.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn parse(id: &CommitId, data: &[u8]) -> Result<Self, ObjectError> {
        parse(id, data).map_err(|reason| ObjectError::Malformed {
            id: ObjectId::from(id),
            expected: ObjectKind::Commit,
            reason,
        })
    }

    /// The first line of the message.
    pub fn subject(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }

    /// The value of a trailer line (`Key: value`) in the last paragraph of the message.
    pub fn trailer(&self, key: &str) -> Option<&str> {
        let last = self.message.trim_end().rsplit("\n\n").next()?;
        last.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    }
}

struct Fields {
    tree: Option<ObjectId>,
    parents: Vec<CommitId>,
    author: Option<Person>,
    committer: Option<Person>,
    armored: Option<String>,
    payload: Vec<u8>,
}

fn parse(id: &CommitId, data: &[u8]) -> Result<Commit, String> {
    let mut fields = Fields {
        tree: None,
        parents: Vec::new(),
        author: None,
        committer: None,
        armored: None,
        payload: Vec::with_capacity(data.len()),
    };
    let mut rest = data;
    let mut in_signature = false;
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or("its header does not end")?;
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        if line.contains(&0) {
            return Err("its header contains a zero byte".into());
        }
        if line.is_empty() {
            break;
        }
        if let Some(more) = line.strip_prefix(b" ") {
            if in_signature {
                push_line(&mut fields.armored, more)?;
            } else {
                fields.payload.extend_from_slice(&rest[..=end]);
            }
        } else if let Some(first) = line.strip_prefix(b"gpgsig ") {
            if fields.armored.is_some() {
                return Err("it has two signatures".into());
            }
            in_signature = true;
            push_line(&mut fields.armored, first)?;
        } else {
            in_signature = false;
            header(&mut fields, line)?;
            fields.payload.extend_from_slice(&rest[..=end]);
        }
        rest = after;
    }
    fields.payload.extend_from_slice(rest);
    let Fields { tree, parents, author, committer, armored, payload } = fields;
    Ok(Commit {
        id: id.clone(),
        tree: tree.ok_or("it has no tree")?,
        parents,
        author: author.ok_or("it has no author")?,
        committer: committer.ok_or("it has no committer")?,
        message: String::from_utf8_lossy(&rest[1..]).into_owned(),
        signed: armored.map(|armored| Signed { armored, payload }),
    })
}

fn push_line(armored: &mut Option<String>, line: &[u8]) -> Result<(), String> {
    let line = str::from_utf8(line).map_err(|_| "its signature is not text")?;
    let text = armored.get_or_insert_default();
    text.push_str(line);
    text.push('\n');
    Ok(())
}

fn header(fields: &mut Fields, line: &[u8]) -> Result<(), String> {
    let space = line.iter().position(|&byte| byte == b' ').ok_or("a header line has no value")?;
    let (key, value) = (&line[..space], &line[space + 1..]);
    match key {
        b"tree" if fields.tree.is_none() && fields.parents.is_empty() => {
            fields.tree = Some(id_of(value)?);
        }
        b"parent" if fields.tree.is_some() && fields.author.is_none() => {
            if fields.parents.len() == MAX_PARENTS {
                return Err(format!("it has more than {MAX_PARENTS} parents"));
            }
            fields.parents.push(id_of(value)?.to_commit());
        }
        b"author" if fields.tree.is_some() && fields.author.is_none() => {
            fields.author = Some(person(value)?);
        }
        b"committer" if fields.author.is_some() && fields.committer.is_none() => {
            fields.committer = Some(person(value)?);
        }
        b"tree" | b"parent" | b"author" | b"committer" => {
            return Err(format!("its {} line is twice there or out of order", String::from_utf8_lossy(key)));
        }
        _ if fields.committer.is_none() => return Err("its header is out of order".into()),
        // Another signature header would be left out of what git takes as signed.
        _ if key.starts_with(b"gpgsig") => return Err("it has a signature of an unknown kind".into()),
        _ => {}
    }
    Ok(())
}

pub(crate) fn id_of(value: &[u8]) -> Result<ObjectId, String> {
    let text = str::from_utf8(value).map_err(|_| "an id in it is not text")?;
    text.parse().map_err(|error: volary_model::InvalidName| error.to_string())
}

pub(crate) fn person(value: &[u8]) -> Result<Person, String> {
    let text = String::from_utf8_lossy(value);
    let bad = || format!("{:?} names no person and time", text.chars().take(100).collect::<String>());
    let open = text.find('<').ok_or_else(bad)?;
    let close = text.rfind('>').filter(|&close| close > open).ok_or_else(bad)?;
    let mut time = text[close + 1..].split_ascii_whitespace();
    let seconds = time.next().and_then(|word| word.parse::<i64>().ok()).ok_or_else(bad)?;
    let zone = time.next().ok_or_else(bad)?;
    let zone_is_good = zone.len() == 5
        && zone.starts_with(['+', '-'])
        && zone.bytes().skip(1).all(|byte| byte.is_ascii_digit());
    // Year 9999: later times do not fit the calendars of the programs around us.
    if !zone_is_good || time.next().is_some() || !(0..=253_402_300_799).contains(&seconds) {
        return Err(bad());
    }
    Ok(Person { name: text[..open].trim().to_owned(), email: text[open + 1..close].to_owned(), seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\
        parent e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\n\
        author Ann <a@x> 1700000000 +0100\n\
        committer Bob B <b@x> 1700000001 -0030\n";

    fn read(text: &str) -> Result<Commit, String> {
        let id = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        Commit::parse(&id, text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_signed_commit_gives_its_signature_and_payload() {
        let commit = read(&format!(
            "{HEAD}gpgsig -----BEGIN SSH SIGNATURE-----\n abc\n -----END SSH SIGNATURE-----\n\nSubject\n\nBody\n\nVolary-Stage: canary\n"
        ))
        .unwrap();
        let signed = commit.signed.clone().unwrap();
        assert_eq!(signed.armored, "-----BEGIN SSH SIGNATURE-----\nabc\n-----END SSH SIGNATURE-----\n");
        assert_eq!(
            String::from_utf8(signed.payload).unwrap(),
            format!("{HEAD}\nSubject\n\nBody\n\nVolary-Stage: canary\n")
        );
        assert_eq!((commit.subject(), commit.trailer("Volary-Stage")), ("Subject", Some("canary")));
        assert_eq!((commit.committer.name.as_str(), commit.committer.seconds), ("Bob B", 1_700_000_001));
    }

    #[test]
    fn what_git_would_not_write_is_refused() {
        let check = |text: String, expected: &str| {
            let error = read(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(HEAD.into(), "does not end");
        check(format!("{HEAD}gpgsig a\ngpgsig b\n\n"), "two signatures");
        check(format!("{HEAD}gpgsig-sha256 a\n\n"), "unknown kind");
        check(format!("parent {}\n{HEAD}\n", "0".repeat(40)), "out of order");
        check(format!("{HEAD}tree {}\n\n", "0".repeat(40)), "twice");
        check(HEAD.replace("1700000000 +0100", "yesterday") + "\n", "no person and time");
        check(HEAD.replace("Ann", "A\0n") + "\n", "zero byte");
        check("\n".into(), "no tree");
    }
}
