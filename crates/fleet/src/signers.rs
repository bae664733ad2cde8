//! `.volary/allowed_signers`: whose keys may sign, in the format of git and OpenSSH.
//!
//! The format is that of ssh-keygen(1), "ALLOWED SIGNERS". What each signer may do is in
//! `volary.yml` and decided in `step`.

use std::collections::HashMap;

use ssh_key::PublicKey;
use ssh_key::public::KeyData;

/// The namespace under which git signs.
pub const NAMESPACE: &str = "git";

/// RSA keys below this size are not accepted, as newer OpenSSH does by default for its own keys.
const MIN_RSA_BITS: usize = 2048;

/// One line: a key and the names of whoever holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedSigner {
    /// The names; the first is the one that is shown.
    pub principals: Vec<String>,
    /// The namespaces it may sign in; `None` is any.
    pub namespaces: Option<Vec<String>>,
    /// Signatures made before this time (seconds since 1970) are not accepted.
    pub valid_after: Option<i64>,
    /// Signatures made after this time (seconds since 1970) are not accepted.
    pub valid_before: Option<i64>,
    /// The key.
    pub key: PublicKey,
    /// The line it stands on, from 1.
    pub line: usize,
}

impl AllowedSigner {
    /// The key's SHA-256 fingerprint as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(ssh_key::HashAlg::Sha256).to_string()
    }

    /// True if it may sign in a namespace.
    pub fn signs_in(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|names| names.iter().any(|name| name == namespace))
    }

    /// True if the key is no longer valid at a time, in seconds since 1970.
    pub(crate) fn has_expired(&self, time: i64) -> bool {
        self.valid_before.is_some_and(|before| time > before)
    }
}

/// The parsed file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedSigners {
    /// Its lines in their order.
    pub signers: Vec<AllowedSigner>,
}

/// How [`RootSigners`] say that more people than one must have signed.
const QUORUM: &str = "# quorum:";

/// What a device believes before it has accepted any commit: signers, and how many of them must
/// have signed. The text is one that OpenSSH reads too: the number stands in a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSigners {
    /// The signers.
    pub signers: AllowedSigners,
    /// How many different people of them must have signed.
    pub quorum: u32,
}

impl RootSigners {
    /// Parses the text that came with the device.
    ///
    /// # Errors
    /// [`SignersError`] with the line.
    pub fn parse(text: &str) -> Result<Self, SignersError> {
        let signers = AllowedSigners::parse(text)?;
        let mut quorum = 1;
        for (index, line) in text.lines().enumerate() {
            if let Some(number) = line.trim().strip_prefix(QUORUM) {
                let wrong = || "the quorum is no number; write `# quorum: 2`".to_owned();
                quorum =
                    number.trim().parse().map_err(|_| SignersError { line: index + 1, reason: wrong() })?;
            }
        }
        Ok(Self { signers, quorum })
    }

    /// The text for these lines of allowed_signers.
    pub fn to_text(lines: &[&str], quorum: u32) -> String {
        let first = if quorum > 1 { format!("{QUORUM} {quorum}\n") } else { String::new() };
        format!("{first}{}\n", lines.join("\n"))
    }
}

/// A line that cannot be used. The whole file is then refused: guessing who may sign is worse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of allowed_signers: {reason}")]
pub struct SignersError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub reason: String,
}

impl AllowedSigners {
    /// Parses the file. Empty lines and comments are allowed; at least one signer must be there.
    ///
    /// # Errors
    /// [`SignersError`] with the line.
    pub fn parse(text: &str) -> Result<Self, SignersError> {
        let mut signers = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = index + 1;
            signers.push(signer(line, number).map_err(|reason| SignersError { line: number, reason })?);
        }
        if signers.is_empty() {
            let reason = "there is no signer in it; add a line `NAME ssh-ed25519 KEY`".into();
            return Err(SignersError { line: 1, reason });
        }
        Ok(Self { signers })
    }

    /// Which lines belong to one person: a number for each line, the same for the same person. Lines
    /// are of one person if they share a name or a key, also by way of others in between: who is
    /// counted must be somebody else for certain.
    pub(crate) fn people(&self) -> Vec<usize> {
        let mut person: Vec<usize> = (0..self.signers.len()).collect();
        let mut names: HashMap<String, usize> = HashMap::new();
        for (line, signer) in self.signers.iter().enumerate() {
            let key = std::iter::once(format!(" {}", signer.fingerprint()));
            for name in signer.principals.iter().cloned().chain(key) {
                let other = *names.entry(name).or_insert(line);
                let (a, b) = (root(&person, line), root(&person, other));
                person[a.max(b)] = a.min(b);
            }
        }
        (0..person.len()).map(|line| root(&person, line)).collect()
    }

    /// True if some line names this principal.
    pub fn knows(&self, principal: &str) -> bool {
        self.signers.iter().any(|signer| signer.principals.iter().any(|name| name == principal))
    }
}

fn root(parents: &[usize], mut line: usize) -> usize {
    while parents[line] != line {
        line = parents[line];
    }
    line
}

fn signer(line: &str, number: usize) -> Result<AllowedSigner, String> {
    let (names, rest) = field(line).ok_or("the quote around the principals is not closed")?;
    let principals: Vec<String> = names.trim_matches('"').split(',').map(str::to_owned).collect();
    if let Some(bad) = principals.iter().find(|name| name.is_empty() || name.contains(['!', '*', '?'])) {
        return Err(format!(
            "the principal {bad:?} is a pattern or empty; write names, so that each signature says who made it"
        ));
    }
    let (options, key_text) = match ssh_key_type(rest) {
        true => ("", rest),
        false => field(rest).ok_or("a quote in the options is not closed")?,
    };
    let options = Options::parse(options)?;
    Ok(AllowedSigner {
        principals,
        namespaces: options.namespaces,
        valid_after: options.valid_after,
        valid_before: options.valid_before,
        key: key(key_text)?,
        line: number,
    })
}

/// Splits off the first field; blanks inside double quotes belong to it.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return Some((&text[..at], text[at..].trim_start())),
            _ => {}
        }
    }
    (!quoted).then_some((text, ""))
}

/// True if the text begins with the name of a key type, so that no options stand before it.
fn ssh_key_type(text: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| text.starts_with(start))
}

#[derive(Default)]
struct Options {
    namespaces: Option<Vec<String>>,
    valid_after: Option<i64>,
    valid_before: Option<i64>,
}

impl Options {
    fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let end = comma_outside_quotes(rest);
            let option = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = value.trim_matches('"');
            match name.to_ascii_lowercase().as_str() {
                "namespaces" => options.namespaces = Some(value.split(',').map(str::to_owned).collect()),
                "valid-after" => options.valid_after = Some(time(value)?),
                "valid-before" => options.valid_before = Some(time(value)?),
                "cert-authority" => {
                    return Err("cert-authority is not accepted here: list each person's own key".into());
                }
                _ => {
                    return Err(format!(
                        "the option {name:?} is unknown; namespaces, valid-after and valid-before are known"
                    ));
                }
            }
        }
        if let (Some(after), Some(before)) = (options.valid_after, options.valid_before)
            && before <= after
        {
            return Err("valid-before is not later than valid-after, so the key is never valid".into());
        }
        Ok(options)
    }
}

fn comma_outside_quotes(text: &str) -> usize {
    let mut quoted = false;
    text.bytes()
        .position(|byte| {
            quoted ^= byte == b'"';
            byte == b',' && !quoted
        })
        .unwrap_or(text.len())
}

/// `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, with or without `Z`. Always UTC here: OpenSSH
/// takes a time without `Z` as local, which would differ from device to device.
fn time(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is no time; write YYYYMMDDZ or YYYYMMDDHHMMSSZ");
    let digits = text.strip_suffix('Z').unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number = |from: usize, length: usize| match digits.get(from..from + length) {
        Some(part) => part.parse::<i16>().expect("at most four digits"),
        None => 0,
    };
    let small = |from| i8::try_from(number(from, 2)).expect("two digits");
    jiff::civil::DateTime::new(number(0, 4), small(4), small(6), small(8), small(10), small(12), 0)
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
        .map(|time| time.timestamp().as_second())
        .map_err(|_| bad())
}

fn key(text: &str) -> Result<PublicKey, String> {
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), Some(base64)) = (words.next(), words.next()) else {
        return Err("the key is missing; a line is `NAME [OPTIONS] KEY-TYPE KEY`".into());
    };
    let key = PublicKey::from_openssh(&format!("{kind} {base64}"))
        .map_err(|error| format!("the {kind} key cannot be read ({error})"))?;
    match key.key_data() {
        KeyData::Ed25519(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Ok(key),
        KeyData::Ecdsa(ssh_key::public::EcdsaPublicKey::NistP256(_)) => Ok(key),
        KeyData::Rsa(rsa) => match rsa.n.as_positive_bytes().map_or(0, |bytes| bytes.len() * 8) {
            bits if bits >= MIN_RSA_BITS => Ok(key),
            bits => Err(format!("the RSA key has {bits} bits; use at least {MIN_RSA_BITS}, or ssh-ed25519")),
        },
        _ => Err(format!("keys of type {kind} cannot be checked by devices; use ssh-ed25519")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn the_format_of_openssh_is_read() {
        let text = format!(
            "# people\n\nalice@example.com,alice {KEY} a comment\n\
             \"bob\" namespaces=\"git,file\",valid-after=\"20200101Z\",valid-before=202101010000 {KEY}\n"
        );
        let signers = AllowedSigners::parse(&text).unwrap().signers;
        assert_eq!(signers[0].principals, ["alice@example.com", "alice"]);
        assert_eq!((signers[0].line, signers[1].line), (3, 4));
        assert_eq!(signers[1].principals, ["bob"]);
        assert_eq!(signers[1].namespaces.as_deref().unwrap(), ["git", "file"]);
        assert_eq!(signers[1].valid_after, Some(1_577_836_800));
        assert_eq!(signers[1].valid_before, Some(1_609_459_200));
    }

    #[test]
    fn the_root_of_trust_says_how_many() {
        let line = format!("alice {KEY}");
        let check = |text: &str, quorum: u32| {
            assert_eq!(RootSigners::parse(text).unwrap().quorum, quorum, "{text}");
        };
        check(&RootSigners::to_text(&[&line], 1), 1);
        check(&RootSigners::to_text(&[&line], 3), 3);
        check(&format!("# people\n{line}"), 1);
        assert_eq!(RootSigners::parse(&format!("{line}\n# quorum: x")).unwrap_err().line, 2);
        assert!(RootSigners::parse("# quorum: 2\n").is_err());
    }

    #[test]
    fn lines_of_one_person_are_known_by_name_and_by_key() {
        let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB3Hp4Oc2sOQGZFeB0cFfOmZ9Ws0kmOmoVH2NWDDkxsF";
        let third = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1aUBNhxXHZxLj4/CVjdWrXkNVtNhZFOzsoHdHzd9sV";
        let check = |lines: &[String], expected: &[usize]| {
            let signers = AllowedSigners::parse(&lines.join("\n")).unwrap();
            assert_eq!(signers.people(), expected, "{lines:?}");
        };
        check(&[format!("alice {KEY}"), format!("bob {other}")], &[0, 1]);
        check(&[format!("alice {KEY}"), format!("bob {other}"), format!("alice {third}")], &[0, 1, 0]);
        check(&[format!("alice {KEY}"), format!("bob {KEY}")], &[0, 0]);
        // A third line tells that the first two are one person.
        check(&[format!("a {KEY}"), format!("b {other}"), format!("b,a {third}")], &[0, 0, 0]);
    }

    #[test]
    fn lines_that_cannot_be_used_say_why() {
        let check = |line: &str, expected: &str| {
            let error = AllowedSigners::parse(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("", "no signer");
        check("# nobody", "no signer");
        check("alice", "key is missing");
        check(&format!("*@example.com {KEY}"), "is a pattern");
        check(&format!("alice cert-authority {KEY}"), "cert-authority is not accepted");
        check(&format!("alice no-such=\"x\" {KEY}"), "unknown");
        check(&format!("alice valid-after=20201301 {KEY}"), "no time");
        check(&format!("alice valid-after=\"2020 {KEY}"), "not closed");
        check(&format!("alice valid-after=20210101Z,valid-before=20210101Z {KEY}"), "never valid");
        check("alice ssh-ed25519 AAAA", "cannot be read");
        check(&format!("a {KEY}\nb ssh-dss AAAA"), "line 2");
    }
}
