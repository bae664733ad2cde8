//! YAML 1.1 scalars as PyYAML reads them: `yes` is true, `0644` is 420, `1:30` is 90.
//!
//! Which plain scalar is what, and the value of each. Quoted scalars are text and don't come here.

use super::integer::Integer;
use super::value::Value;

/// What a scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarTag {
    Str,
    Bool,
    Int,
    Float,
    Null,
    Time,
    /// `<<` as a key.
    Merge,
    /// `=`, which PyYAML knows but can't read, save as a key.
    Default,
}

/// What a plain scalar is.
pub(crate) fn resolve(text: &str) -> ScalarTag {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => ScalarTag::Null,
        "<<" => ScalarTag::Merge,
        "=" => ScalarTag::Default,
        _ if bool_of(text).is_some() && is_evenly_cased(text) => ScalarTag::Bool,
        _ if is_float(text) => ScalarTag::Float,
        _ if is_int(text) => ScalarTag::Int,
        _ if Stamp::parse(text).is_some_and(|stamp| stamp.is_implicit()) => ScalarTag::Time,
        _ => ScalarTag::Str,
    }
}

/// The value of a scalar of this kind; the reason if it has none, for instance `!!int x`.
pub(crate) fn build(tag: ScalarTag, text: &str) -> Result<Value, String> {
    let wrong = || format!("{text:?} has not the form of its type");
    match tag {
        ScalarTag::Str => Ok(Value::text(text)),
        ScalarTag::Null => Ok(Value::Null),
        ScalarTag::Bool => bool_of(text).map(Value::Bool).ok_or_else(wrong),
        ScalarTag::Int => int_of(text).map(Value::Int).ok_or_else(wrong),
        ScalarTag::Float => float_of(text).map(Value::Float).ok_or_else(wrong),
        ScalarTag::Time => {
            Stamp::parse(text).and_then(|stamp| stamp.iso()).map(Value::Time).ok_or_else(wrong)
        }
        ScalarTag::Merge | ScalarTag::Default => Err(format!("{text:?} is no value in YAML 1.1; quote it")),
    }
}

/// `yes`, `Yes` and `YES`, but not `yEs`.
fn is_evenly_cased(text: &str) -> bool {
    let lower = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase());
    lower(&text[1..]) || text.bytes().all(|b| b.is_ascii_uppercase())
}

fn bool_of(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" => Some(true),
        "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

fn unsigned(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn all(text: &str, accept: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(accept)
}

/// `[0-9][0-9_]*`
fn digits(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && all(text, |b| b.is_ascii_digit() || b == b'_')
}

/// The base-60 parts after the first: `[0-5]?[0-9]` each.
fn sixties<'a>(mut parts: impl Iterator<Item = &'a str>) -> bool {
    parts.all(|part| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
}

fn is_int(text: &str) -> bool {
    let (_, text) = unsigned(text);
    if let Some(bits) = text.strip_prefix("0b") {
        return all(bits, |b| matches!(b, b'0' | b'1' | b'_'));
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, |b| b.is_ascii_hexdigit() || b == b'_');
    }
    if text == "0"
        || text.strip_prefix('0').is_some_and(|octal| all(octal, |b| matches!(b, b'0'..=b'7' | b'_')))
    {
        return true;
    }
    let mut parts = text.split(':');
    parts.next().is_some_and(|first| digits(first) && !first.starts_with('0')) && sixties(parts)
}

fn is_float(text: &str) -> bool {
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (_, bare) = unsigned(text);
    if matches!(bare, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    if let Some(fraction) = text.strip_prefix('.') {
        return digits(without_exponent(fraction));
    }
    let Some((whole, fraction)) = bare.split_once('.') else { return false };
    let fraction_only = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let mut parts = whole.split(':');
    let first = parts.next().is_some_and(digits);
    if whole.contains(':') {
        return first && sixties(parts) && fraction_only(fraction);
    }
    first && fraction_only(without_exponent(fraction))
}

/// Cuts `[eE][-+][0-9]+` off the end.
fn without_exponent(text: &str) -> &str {
    match text.find(['e', 'E']) {
        Some(at) => {
            let power = &text[at + 1..];
            let signed = power.starts_with(['-', '+']) && all(&power[1..], |b| b.is_ascii_digit());
            if signed { &text[..at] } else { text }
        }
        None => text,
    }
}

fn int_of(text: &str) -> Option<Integer> {
    let text = text.replace('_', "");
    let (negative, digits) = unsigned(&text);
    if digits == "0" {
        return Some(Integer::from(0));
    }
    if let Some(bits) = digits.strip_prefix("0b") {
        return Integer::from_digits(negative, bits, 2);
    }
    if let Some(hex) = digits.strip_prefix("0x") {
        return Integer::from_digits(negative, hex, 16);
    }
    if digits.starts_with('0') {
        return Integer::from_digits(negative, digits, 8);
    }
    if digits.contains(':') {
        let mut total: i64 = 0;
        for part in digits.split(':') {
            total = total.checked_mul(60)?.checked_add(part.parse().ok()?)?;
        }
        return Some(Integer::from(if negative { -total } else { total }));
    }
    Integer::from_digits(negative, digits, 10)
}

fn float_of(text: &str) -> Option<f64> {
    let text = text.replace('_', "").to_lowercase();
    let (negative, digits) = unsigned(&text);
    let sign = if negative { -1.0 } else { 1.0 };
    match digits {
        ".inf" => Some(sign * f64::INFINITY),
        ".nan" => Some(f64::NAN),
        _ if digits.contains(':') => {
            let parts: Vec<f64> = digits.split(':').map(python_float).collect::<Option<_>>()?;
            let mut base = 1.0;
            let mut total = 0.0;
            for part in parts.iter().rev() {
                total += part * base;
                base *= 60.0;
            }
            Some(sign * total)
        }
        _ => python_float(digits).map(|value| sign * value),
    }
}

/// What Python's `float()` takes, save its words for infinity, which YAML has its own for.
pub(crate) fn python_float(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if plain { text.parse().ok() } else { None }
}

/// A date, with or without a time, as written.
struct Stamp<'a> {
    text: &'a str,
    date: [u32; 3],
    time: Option<Clock>,
}

struct Clock {
    hour: u32,
    minute: u32,
    second: u32,
    micro: u32,
    /// Seconds east of Greenwich; `None` if the zone is not given.
    zone: Option<i32>,
}

impl<'a> Stamp<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut rest = Cursor { rest: text };
        let year = rest.number(4, 4)?;
        rest.take("-")?;
        let month = rest.number(1, 2)?;
        rest.take("-")?;
        let day = rest.number(1, 2)?;
        let date = [year, month, day];
        if rest.rest.is_empty() {
            return Some(Self { text, date, time: None });
        }
        if rest.take("T").or_else(|| rest.take("t")).is_none() {
            rest.blanks(1)?;
        }
        let hour = rest.number(1, 2)?;
        rest.take(":")?;
        let minute = rest.number(2, 2)?;
        rest.take(":")?;
        let second = rest.number(2, 2)?;
        let micro = match rest.take(".") {
            Some(()) => rest.micros(),
            None => 0,
        };
        rest.blanks(0)?;
        let zone = rest.zone()?;
        Some(Self { text, date, time: Some(Clock { hour, minute, second, micro, zone }) })
    }

    /// A date without a time is one without being told only if month and day have two digits.
    fn is_implicit(&self) -> bool {
        self.time.is_some() || self.text.len() == 10
    }

    /// `None` for a day or a time that doesn't exist.
    fn iso(&self) -> Option<String> {
        let [year, month, day] = self.date;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        if year == 0 || day == 0 || day > days {
            return None;
        }
        let date = format!("{year:04}-{month:02}-{day:02}");
        let Some(clock) = &self.time else { return Some(date) };
        let Clock { hour, minute, second, micro, zone } = *clock;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let fraction = if micro == 0 { String::new() } else { format!(".{micro:06}") };
        let zone = match zone {
            None => String::new(),
            Some(seconds) if seconds.abs() >= 86_400 => return None,
            Some(seconds) => {
                let sign = if seconds < 0 { '-' } else { '+' };
                let minutes = seconds.abs() / 60;
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        };
        Some(format!("{date}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"))
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn take(&mut self, prefix: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(prefix)?;
        Some(())
    }

    fn number(&mut self, least: usize, most: usize) -> Option<u32> {
        let count = self.rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if count < least {
            return None;
        }
        let (digits, rest) = self.rest.split_at(count);
        self.rest = rest;
        digits.parse().ok()
    }

    fn blanks(&mut self, least: usize) -> Option<()> {
        let rest = self.rest.trim_start_matches([' ', '\t']);
        let enough = self.rest.len() - rest.len() >= least;
        self.rest = rest;
        enough.then_some(())
    }

    /// Digits of a fraction, the first six of which count.
    fn micros(&mut self) -> u32 {
        let count = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.rest.split_at(count);
        self.rest = rest;
        format!("{:0<6}", &digits[..count.min(6)]).parse().unwrap_or(0)
    }

    fn zone(&mut self) -> Option<Option<i32>> {
        match self.rest {
            "" => return Some(None),
            "Z" => return Some(Some(0)),
            _ => {}
        }
        let sign = if self.take("-").is_some() {
            -1
        } else {
            self.take("+")?;
            1
        };
        let hours = i32::try_from(self.number(1, 2)?).ok()?;
        let minutes = match self.take(":") {
            Some(()) => i32::try_from(self.number(2, 2)?).ok()?,
            None => 0,
        };
        self.rest.is_empty().then_some(Some(sign * (hours * 3600 + minutes * 60)))
    }
}
