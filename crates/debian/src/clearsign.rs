//! The frame of a clearsigned text (RFC 9580, section 7). Not here: checking the signature.

use std::borrow::Cow;

/// A text taken out of its clearsign frame. Whether the signature is good is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clearsigned<'a> {
    /// The signed text without dash escapes, each line ended with `\n`.
    pub payload: Cow<'a, str>,
    /// The armored signature block.
    pub signature: &'a str,
}

/// What is wrong with a clearsign frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClearsignError {
    /// Something other than empty lines outside of the frame: it would not be covered by the
    /// signature, so a reader must not take it for signed.
    #[error("there is text outside of the signed part")]
    Outside,
    /// The frame ends before it is whole.
    #[error("the signed text has no end: {0} is missing")]
    Incomplete(&'static str),
    /// An armor header that may not stand there.
    #[error("the signed text begins with an unknown header line {0:?}")]
    Header(String),
}

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END: &str = "-----END PGP SIGNATURE-----";

/// Takes the payload out of a clearsigned text; `None` if the text is not clearsigned.
///
/// # Errors
/// [`ClearsignError`] if the text begins a clearsign frame but does not keep to it.
pub fn split(text: &str) -> Result<Option<Clearsigned<'_>>, ClearsignError> {
    let Some(begin) = find_line(text, BEGIN) else { return Ok(None) };
    if !text[..begin].trim().is_empty() {
        return Err(ClearsignError::Outside);
    }
    let body = skip_headers(next_line(&text[begin..]))?;
    let end = find_line(body, SIGNATURE).ok_or(ClearsignError::Incomplete(SIGNATURE))?;
    let signature = &body[end..];
    let last = find_line(signature, END).ok_or(ClearsignError::Incomplete(END))?;
    if !next_line(&signature[last..]).trim().is_empty() {
        return Err(ClearsignError::Outside);
    }
    let signature = &signature[..last + END.len()];
    let payload = &body[..end];
    let payload = if payload.contains('\r') || payload.starts_with("- ") || payload.contains("\n- ") {
        Cow::Owned(payload.lines().flat_map(|line| [line.strip_prefix("- ").unwrap_or(line), "\n"]).collect())
    } else {
        Cow::Borrowed(payload)
    };
    Ok(Some(Clearsigned { payload, signature }))
}

/// The payload of a clearsigned text, or the text itself where it is not clearsigned.
///
/// # Errors
/// As [`split`].
pub fn payload(text: &str) -> Result<Cow<'_, str>, ClearsignError> {
    Ok(split(text)?.map_or(Cow::Borrowed(text), |signed| signed.payload))
}

/// Where a line that is exactly `wanted` begins.
fn find_line(text: &str, wanted: &str) -> Option<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == wanted {
            return Some(start);
        }
        start += line.len();
    }
    None
}

fn next_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

/// Skips the `Hash:` headers and the empty line after them.
fn skip_headers(mut text: &str) -> Result<&str, ClearsignError> {
    loop {
        let line = text.lines().next().ok_or(ClearsignError::Incomplete("an empty line"))?.trim_end();
        if !line.is_empty() && !line.starts_with("Hash:") {
            return Err(ClearsignError::Header(line.chars().take(80).collect()));
        }
        text = next_line(text);
        if line.is_empty() {
            return Ok(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &str) -> String {
        format!("{BEGIN}\nHash: SHA512\n\n{body}\n{SIGNATURE}\n\nabc\n{END}\n")
    }

    #[test]
    fn the_payload_comes_out() {
        assert_eq!(payload("A: 1\n").unwrap(), "A: 1\n");
        assert_eq!(payload(&framed("A: 1\nB: 2")).unwrap(), "A: 1\nB: 2\n");
        assert_eq!(payload(&framed("- -----BEGIN\r\nA: 1\r")).unwrap(), "-----BEGIN\nA: 1\n");
        assert!(split(&framed("x")).unwrap().unwrap().signature.ends_with(END));
    }

    #[test]
    fn nothing_is_smuggled_in() {
        assert_eq!(payload(&format!("A: 1\n{}", framed("B: 2"))), Err(ClearsignError::Outside));
        assert_eq!(payload(&format!("{}A: 1\n", framed("B: 2"))), Err(ClearsignError::Outside));
        assert!(matches!(payload(BEGIN), Err(ClearsignError::Incomplete(_))));
        assert!(matches!(payload(&format!("{BEGIN}\n\nA: 1\n")), Err(ClearsignError::Incomplete(_))));
        assert!(matches!(payload(&format!("{BEGIN}\nA: 1\n")), Err(ClearsignError::Header(_))));
    }
}
