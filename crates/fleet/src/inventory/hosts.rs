//! Host patterns of inventories: `web[01:20].example.org:2222` to names and a port.
//!
//! The forms of addresses are Ansible's own, not those of any standard; where a pattern is no
//! address in this sense, it is taken as a name as it stands.

use std::collections::BTreeSet;

/// More names from one pattern are a mistake (or an attack), not a fleet.
const MAX_NAMES: usize = 200_000;

/// Why a pattern names no hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PatternError(String);

/// The names that a pattern stands for, and the port that goes with them.
pub(crate) fn expand(pattern: &str) -> Result<(Vec<String>, Option<i64>), PatternError> {
    let (address, port) = match split_port(pattern) {
        Some((address, port)) if is_address(address) => (address, Some(port)),
        Some(_) => (pattern, None),
        None => (pattern, None),
    };
    let mut names = Vec::new();
    expand_ranges(address, &mut names)?;
    Ok((names, port))
}

/// Cuts off `:22`, also after `[…]`; `None` if there is no port.
fn split_port(pattern: &str) -> Option<(&str, i64)> {
    let (mut address, mut port) = (pattern, None);
    if let Some((inner, number)) = address.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:"))
        && !inner.is_empty()
        && let Some(number) = port_number(number)
    {
        (address, port) = (inner, Some(number));
    }
    if let Some((base, number)) = address.rsplit_once(':')
        && let Some(number) = port_number(number)
        && outside_brackets_ok(base)
    {
        (address, port) = (base, Some(number));
    }
    port.map(|port| (address, port))
}

fn port_number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// `(?:[^:\[\]]|\[[^\]]*\])*`
fn outside_brackets_ok(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find([':', '[', ']']) {
        if !rest[at..].starts_with('[') {
            return false;
        }
        let Some(end) = rest[at..].find(']') else { return false };
        rest = &rest[at + end + 1..];
    }
    true
}

fn is_address(text: &str) -> bool {
    let bytes = text.as_bytes();
    is_ipv4(bytes) || is_ipv6(bytes) || is_hostname(text)
}

/// Where a match may have ended so far; matching goes on from each place.
type Ends = BTreeSet<usize>;

fn each(ends: &Ends, step: impl Fn(usize) -> Vec<usize>) -> Ends {
    ends.iter().flat_map(|&end| step(end)).collect()
}

fn literal(text: &[u8], ends: &Ends, wanted: &str) -> Ends {
    let wanted = wanted.as_bytes();
    each(ends, |at| {
        let found = text.get(at..at + wanted.len()).is_some_and(|have| have.eq_ignore_ascii_case(wanted));
        if found { vec![at + wanted.len()] } else { Vec::new() }
    })
}

/// `[begin:end]` or `[begin:end:step]` of digits of this kind; the place after it.
fn range(text: &[u8], at: usize, digit: impl Fn(u8) -> bool) -> Option<usize> {
    let inner = text.get(at..)?.strip_prefix(b"[")?;
    let close = inner.iter().position(|&b| b == b']')?;
    let mut parts = inner[..close].split(|&b| b == b':');
    let (begin, end, step) = (parts.next()?, parts.next()?, parts.next());
    let good = |part: &[u8]| !part.is_empty() && part.iter().all(|&b| digit(b));
    let step_good = step.is_none_or(|step| !step.is_empty() && step.iter().all(u8::is_ascii_digit));
    (good(begin) && good(end) && step_good && parts.next().is_none()).then_some(at + close + 2)
}

fn ipv4_part(text: &[u8], at: usize) -> Vec<usize> {
    let count = text[at..].iter().take(3).take_while(|b| b.is_ascii_digit()).count();
    let fits = |len: usize| match &text[at..at + len] {
        [a, b, c] => u32::from(a - b'0') * 100 + u32::from(b - b'0') * 10 + u32::from(c - b'0') <= 255,
        _ => true,
    };
    let mut ends: Vec<usize> = (1..=count).filter(|&len| fits(len)).map(|len| at + len).collect();
    ends.extend(range(text, at, |b| b.is_ascii_digit()));
    ends
}

fn is_ipv4(text: &[u8]) -> bool {
    let mut ends = Ends::from([0]);
    for part in 0..4 {
        if part > 0 {
            ends = literal(text, &ends, ".");
        }
        ends = each(&ends, |at| ipv4_part(text, at));
    }
    ends.contains(&text.len())
}

fn ipv6_part(text: &[u8], at: usize) -> Vec<usize> {
    let count = text[at..].iter().take(4).take_while(|b| b.is_ascii_hexdigit()).count();
    let mut ends: Vec<usize> = (1..=count).map(|len| at + len).collect();
    ends.extend(range(text, at, |b| b.is_ascii_hexdigit()));
    ends
}

/// Ansible's expression is tied to the end of the text only in its last form, so all others match
/// beginnings; `a::` makes everything that begins so an address.
fn is_ipv6(text: &[u8]) -> bool {
    let start = Ends::from([0]);
    let part = |ends: &Ends| each(ends, |at| ipv6_part(text, at));
    let lit = |ends: &Ends, wanted: &str| literal(text, ends, wanted);
    // `part:` this many times, keeping what each count gives.
    let mut heads = vec![start.clone()];
    for count in 1..=7 {
        let next = lit(&part(&heads[count - 1]), ":");
        heads.push(next);
    }
    let uncompressed = !part(&heads[7]).is_empty();
    let compressed_end = (1..=6).any(|count| !lit(&heads[count], ":").is_empty());
    // `part:` a times, then `:part` at least once.
    let compressed = (1..=6).any(|count| !part(&lit(&heads[count], ":")).is_empty());
    let leading = !part(&lit(&lit(&start, ":"), ":")).is_empty();
    let bare = !lit(&lit(&start, ":"), ":").is_empty() || !lit(&lit(&part(&start), ":"), ":").is_empty();
    if uncompressed || compressed_end || compressed || leading || bare {
        return true;
    }
    let mut zeros = start;
    for _ in 0..5 {
        zeros = lit(&zeros, "0:");
    }
    // The form in the middle, six zeros, needs not end either.
    let dotted = |ends: &Ends| {
        let mut ends = ends.clone();
        for _ in 0..3 {
            ends = lit(&part(&ends), ".");
        }
        part(&ends)
    };
    !dotted(&lit(&zeros, "0:")).is_empty() || dotted(&lit(&zeros, "ffff:")).contains(&text.len())
}

fn is_hostname(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let mut rest = label;
    let mut first = true;
    let mut last = ' ';
    while let Some(c) = rest.chars().next() {
        let at = label.len() - rest.len();
        if c == '[' {
            let bytes = label.as_bytes();
            let numeric = range(bytes, at, |b| b.is_ascii_digit());
            let Some(end) = numeric.or_else(|| letter_range(bytes, at)) else { return false };
            rest = &label[end..];
        } else if c.is_alphanumeric() || c == '_' || (c == '-' && !first) {
            rest = &rest[c.len_utf8()..];
        } else {
            return false;
        }
        first = false;
        last = c;
    }
    !first && last != '_' && last != '-'
}

/// `[a:f]`, one letter each.
fn letter_range(text: &[u8], at: usize) -> Option<usize> {
    match &text[at..] {
        [b'[', a, b':', b, b']' | b':', ..] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
            range(text, at, |b| b.is_ascii_alphanumeric())
        }
        _ => None,
    }
}

fn expand_ranges(pattern: &str, names: &mut Vec<String>) -> Result<(), PatternError> {
    if !pattern.contains('[') {
        names.push(pattern.to_owned());
        return Ok(());
    }
    if names.len() > MAX_NAMES {
        return Err(PatternError(format!("the pattern stands for more than {MAX_NAMES} hosts")));
    }
    let wrong = |reason: &str| PatternError(format!("in the host pattern {pattern:?} {reason}"));
    // Ansible replaces the first `[` and the first `]` by `|` and splits there.
    let split = pattern.replacen('[', "|", 1).replacen(']', "|", 1);
    let parts: Vec<&str> = split.split('|').collect();
    let [head, bounds, tail] = parts.as_slice() else {
        return Err(wrong("brackets do not pair, or there is a `|`"));
    };
    let bounds: Vec<&str> = bounds.split(':').collect();
    let (begin, end, step) = match bounds.as_slice() {
        [begin, end] => (*begin, *end, "1"),
        [begin, end, step] => (*begin, *end, *step),
        _ => return Err(wrong("a range must be [begin:end] or [begin:end:step]")),
    };
    let begin = if begin.is_empty() { "0" } else { begin };
    if end.is_empty() {
        return Err(wrong("a range must have an end"));
    }
    let width = if begin.starts_with('0') && begin.len() > 1 { begin.chars().count() } else { 0 };
    if width > 0 && width != end.chars().count() {
        return Err(wrong("begin and end must have the same number of digits"));
    }
    for item in sequence(begin, end, step).map_err(wrong)? {
        let name = format!("{head}{}{tail}", zero_filled(&item, width));
        expand_ranges(&name, names)?;
    }
    Ok(())
}

/// Python's `zfill`: zeros after the sign.
fn zero_filled(text: &str, width: usize) -> String {
    let missing = "0".repeat(width.saturating_sub(text.chars().count()));
    match text.strip_prefix('-') {
        Some(digits) => format!("-{missing}{digits}"),
        None => format!("{missing}{text}"),
    }
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn sequence(begin: &str, end: &str, step: &str) -> Result<Vec<String>, &'static str> {
    if let (Some(from), Some(to)) = (LETTERS.find(begin), LETTERS.find(end)) {
        if from > to {
            return Err("the begin must not come after the end");
        }
        // Python cuts a text here, where a negative step walks backwards from nowhere.
        if let Ok(step) = integer(step) {
            return match usize::try_from(step) {
                Ok(0) => Err("the step must be a number other than 0"),
                Ok(step) => Ok(LETTERS[from..=to].chars().step_by(step).map(String::from).collect()),
                Err(_) => Err("the step must not be negative"),
            };
        }
    }
    let wrong = "begin, end and step must be numbers or single letters";
    let (from, to, step) = (integer(begin), integer(end), integer(step));
    let (Ok(from), Ok(to), Ok(step)) = (from, to, step) else { return Err(wrong) };
    if step == 0 {
        return Err("the step must be a number other than 0");
    }
    let mut items = Vec::new();
    let mut at = from;
    // Python's `range` up to, not including, one after the end.
    while if step > 0 { at < to + 1 } else { at > to + 1 } {
        items.push(at.to_string());
        at += step;
        if items.len() > MAX_NAMES {
            return Err("there are too many hosts in the range");
        }
    }
    Ok(items)
}

fn integer(text: &str) -> Result<i64, ()> {
    let number = super::python::integer(text).and_then(|number| number.to_i64()).ok_or(())?;
    // Far from overflow in the sums above.
    if number.abs() < 1 << 60 { Ok(number) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[track_caller]
    fn check(pattern: &str, names: &[&str], port: Option<i64>) {
        let expected = names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(expand(pattern), Ok((expected, port)), "{pattern}");
    }

    #[test]
    fn names_ports_and_ranges() {
        check("web", &["web"], None);
        check("web.example.org:2222", &["web.example.org"], Some(2222));
        check("10.0.0.1:22", &["10.0.0.1"], Some(22));
        check("[2001:db8::1]:22", &["2001:db8::1"], Some(22));
        check("2001:db8::1", &["2001:db8::1"], None);
        check("web-:22", &["web-:22"], None);
        check("web[08:10]", &["web08", "web09", "web10"], None);
        check("db-[a:e:2].x:5", &["db-a.x", "db-c.x", "db-e.x"], Some(5));
        check("r[1:2]n[a:b]", &["r1na", "r1nb", "r2na", "r2nb"], None);
        check("x[:2]", &["x0", "x1", "x2"], None);
        check("x[3:1]", &[], None);
    }

    #[test]
    fn mistakes() {
        for pattern in ["a[1:", "a[1]", "a[01:100]", "a[b:a]", "a[1:2:0]", "a|b[1:2]", "a[1:2:3:4]", "a[1:]"]
        {
            assert!(expand(pattern).is_err(), "{pattern}");
        }
    }
}
