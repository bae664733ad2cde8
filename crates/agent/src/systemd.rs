//! Asks systemd for the states of its units without starting a program: over the socket on which it
//! listens for `systemctl` of root. A convergence looks at the units again and again, and each
//! `systemctl` costs more than all that systemd has to say.
//!
//! The socket is systemd's own affair. Whatever is not as expected is `None`, and the caller asks
//! `systemctl`. Not here: what the states mean.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Where systemd listens.
const SOCKET: &str = "/run/systemd/private";

/// How long it may be silent.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const LONGEST: usize = 16 << 20;

/// So many questions are asked before the first answer is read.
const AT_ONCE: usize = 50;

/// Who answers.
const MANAGER: (&str, &str) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");

/// What answers questions for properties.
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Types of messages in D-Bus.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Fields of the header of a message in D-Bus.
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SIGNATURE: u8 = 8;
}

/// A unit that systemd has in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `loaded`, `not-found`, …
    pub load: String,
    /// `active`, `failed`, …
    pub active: String,
    /// `running`, `dead`, …
    pub sub: String,
    /// True if it only mirrors another unit.
    pub follows: bool,
    /// True if systemd is about to start or stop it.
    pub has_job: bool,
}

impl Listed {
    /// True if `systemctl list-units` shows it without being asked for all.
    pub fn is_shown(&self) -> bool {
        !self.follows && (self.has_job || self.active != "inactive")
    }
}

/// What a unit tells of itself.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// Which kinds of units have it, by the end of their names; all if empty.
    kinds: &'static [&'static str],
    name: &'static str,
}

/// `loaded`, `not-found`, …
pub const LOAD: Property = Property { kinds: &[], name: "LoadState" };

/// `active`, `failed`, …
pub const ACTIVE: Property = Property { kinds: &[], name: "ActiveState" };

/// `enabled`, `disabled`, `static`, …
pub const FILE: Property = Property { kinds: &[], name: "UnitFileState" };

/// How often systemd restarted it by itself.
pub const RESTARTS: Property = Property { kinds: &["service"], name: "NRestarts" };

/// Its control group; empty while it does not run.
pub const GROUP: Property =
    Property { kinds: &["service", "socket", "mount", "swap", "slice", "scope"], name: "ControlGroup" };

impl Property {
    /// The interface that has it; `None` if such a unit does not.
    fn interface(self, unit: &str) -> Option<String> {
        let (_, kind) = unit.rsplit_once('.')?;
        if self.kinds.is_empty() {
            return Some("org.freedesktop.systemd1.Unit".to_owned());
        }
        let (first, rest) = kind.split_at_checked(1).filter(|_| self.kinds.contains(&kind))?;
        Some(format!("org.freedesktop.systemd1.{}{rest}", first.to_uppercase()))
    }
}

/// A connection to systemd.
#[derive(Debug)]
pub struct Systemd {
    stream: BufReader<UnixStream>,
    serial: u32,
}

impl Systemd {
    /// Connects; `None` if it does not answer as expected.
    pub fn connect() -> Option<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(socket: &Path) -> Option<Self> {
        Self::with(UnixStream::connect(socket).ok()?)
    }

    fn with(mut stream: UnixStream) -> Option<Self> {
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        stream.set_write_timeout(Some(LIMIT)).ok()?;
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes()).ok()?;
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        (&mut stream).take(200).read_until(b'\n', &mut line).ok()?;
        line.starts_with(b"OK ").then_some(Self { stream, serial: 0 })
    }

    /// All units in its memory.
    pub fn units(&mut self) -> Option<Vec<Listed>> {
        let serial = self.call(MANAGER.0, MANAGER.1, "ListUnits", &[])?;
        units(&self.answer(serial)??)
    }

    /// What these units tell, in their order; nothing where a unit does not have a property. One that
    /// is not in memory is read from its file for it.
    pub fn show<const N: usize>(
        &mut self,
        units: &[&str],
        properties: &[Property; N],
    ) -> Option<Vec<[String; N]>> {
        let mut told = Vec::new();
        for some in units.chunks(AT_ONCE) {
            let mut asked = Vec::new();
            for unit in some {
                let path = path(unit);
                let ask = |property: &Property| match property.interface(unit) {
                    Some(interface) => {
                        self.call(&path, PROPERTIES, "Get", &[&interface, property.name]).map(Some)
                    }
                    None => Some(None),
                };
                asked.push(properties.iter().map(ask).collect::<Option<Vec<_>>>()?);
            }
            for serials in asked {
                let mut values = [const { String::new() }; N];
                for (value, serial) in values.iter_mut().zip(serials) {
                    if let Some(serial) = serial
                        && let Some(body) = self.answer(serial)?
                    {
                        *value = Reader::new(&body).variant()?;
                    }
                }
                told.push(values);
            }
        }
        Some(told)
    }

    /// Asks; the answer has this number.
    fn call(&mut self, path: &str, interface: &str, member: &str, texts: &[&str]) -> Option<u32> {
        self.serial += 1;
        let message = call(self.serial, path, interface, member, texts);
        self.stream.get_mut().write_all(&message).ok()?;
        Some(self.serial)
    }

    /// The body of the answer with this number, of those that were asked for in this order; `Some(None)` if it is an
    /// error.
    #[expect(clippy::option_option, reason = "no answer is not the answer that there is none")]
    fn answer(&mut self, serial: u32) -> Option<Option<Vec<u8>>> {
        loop {
            let mut start = [0; 16];
            self.stream.read_exact(&mut start).ok()?;
            let number =
                |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
            let (body, fields) = (usize::try_from(number(4)).ok()?, usize::try_from(number(12)).ok()?);
            if start[0] != b'l' || start[3] != 1 || body > LONGEST || fields > LONGEST {
                return None;
            }
            let mut header = vec![0; fields.next_multiple_of(8)];
            self.stream.read_exact(&mut header).ok()?;
            let mut content = vec![0; body];
            self.stream.read_exact(&mut content).ok()?;
            if reply_serial(&header[..fields]) == Some(serial) {
                match start[1] {
                    RETURN => return Some(Some(content)),
                    ERROR => return Some(None),
                    _ => return None,
                }
            }
            // A signal: systemd tells everybody of jobs and units.
        }
    }
}

/// Where systemd has a unit: its name with everything else than letters and digits as `_` and two hexadecimal digits.
fn path(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (index, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(byte.into());
        } else {
            write!(path, "_{byte:02x}").expect("a String takes any write");
        }
    }
    path
}

/// A question, as bytes: the header, then the texts.
fn call(serial: u32, path: &str, interface: &str, member: &str, texts: &[&str]) -> Vec<u8> {
    let mut body = Writer::default();
    texts.iter().for_each(|text| body.text(text));
    let mut message = Writer(vec![b'l', CALL, 0, 1]);
    message.number(body.0.len());
    message.number(serial as usize);
    let mut fields = Writer::default();
    fields.field(field::PATH, "o", path);
    fields.field(field::INTERFACE, "s", interface);
    fields.field(field::MEMBER, "s", member);
    fields.field(field::DESTINATION, "s", "org.freedesktop.systemd1");
    if !texts.is_empty() {
        fields.align(8);
        fields.0.extend([field::SIGNATURE, 1, b'g', 0]);
        fields.signature(&"s".repeat(texts.len()));
    }
    message.number(fields.0.len());
    message.0.extend(fields.0);
    message.align(8);
    message.0.extend(body.0);
    message.0
}

/// Writes D-Bus. What is written starts where a multiple of eight does.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: usize) {
        self.align(4);
        self.0.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, signature: &str, value: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        self.text(value);
    }
}

/// Reads D-Bus; `None` where it is something else.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.bytes.get(self.at..self.at.checked_add(4)?)?;
        self.at += 4;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn text_of(&mut self, length: usize) -> Option<String> {
        let end = self.at.checked_add(length)?;
        let text = std::str::from_utf8(self.bytes.get(self.at..end)?).ok()?.to_owned();
        self.at = end;
        (self.byte()? == 0).then_some(text)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        self.text_of(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?;
        self.text_of(length.into())
    }

    /// A text or a number, as text.
    fn variant(&mut self) -> Option<String> {
        match self.signature()?.as_str() {
            "s" => self.text(),
            "u" => Some(self.number()?.to_string()),
            _ => None,
        }
    }
}

/// Which question a message answers, by the fields of its header.
fn reply_serial(fields: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(fields);
    while reader.at < fields.len() {
        reader.align(8);
        let code = reader.byte()?;
        match (code, reader.signature()?.as_str()) {
            (field::REPLY_SERIAL, "u") => return reader.number(),
            (_, "u") => drop(reader.number()?),
            (_, "s" | "o") => drop(reader.text()?),
            (_, "g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    None
}

/// The answer to `ListUnits`: an array of name, description, three states, what it follows, its path, and the number,
/// type and path of its job.
fn units(body: &[u8]) -> Option<Vec<Listed>> {
    let mut reader = Reader::new(body);
    let length = usize::try_from(reader.number()?).ok()?;
    reader.align(8);
    let end = reader.at.checked_add(length)?;
    let mut units = Vec::new();
    while reader.at < end {
        reader.align(8);
        let (name, _description) = (reader.text()?, reader.text()?);
        let (load, active, sub) = (reader.text()?, reader.text()?, reader.text()?);
        let (follows, _path) = (!reader.text()?.is_empty(), reader.text()?);
        let has_job = reader.number()? != 0;
        let (_type, _path) = (reader.text()?, reader.text()?);
        units.push(Listed { name, load, active, sub, follows, has_job });
    }
    // None at all is no machine that runs.
    (reader.at == end && !units.is_empty()).then_some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a message of this type says, as systemd would write it.
    fn message(kind: u8, serial: u32, body: &[u8]) -> Vec<u8> {
        let mut fields = Writer::default();
        fields.0.extend([field::REPLY_SERIAL, 1, b'u', 0]);
        fields.number(serial as usize);
        fields.field(7, "s", ":1.0");
        let mut message = Writer(vec![b'l', kind, 1, 1]);
        message.number(body.len());
        message.number(9);
        message.number(fields.0.len());
        message.0.extend(fields.0);
        message.align(8);
        message.0.extend(body);
        message.0
    }

    fn listed(units: &[(&str, &str, &str, u32)]) -> Vec<u8> {
        let mut array = Writer::default();
        for (name, active, sub, job) in units {
            array.align(8);
            for text in [name, "what it is for", "loaded", active, sub, "", "/unit/a"] {
                array.text(text);
            }
            array.number(*job as usize);
            array.text("");
            array.text("/");
        }
        let mut body = Writer::default();
        body.number(array.0.len());
        body.align(8);
        body.0.extend(array.0);
        body.0
    }

    /// A socket on whose other end these bytes come, after a welcome.
    fn answering(bytes: &[u8]) -> Option<Systemd> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"OK 0123\r\n").unwrap();
        theirs.write_all(bytes).unwrap();
        // It stays open for as long as the test needs it.
        std::mem::forget(theirs);
        Systemd::with(ours)
    }

    #[test]
    fn a_question_is_one_of_dbus() {
        let bytes = call(7, "/a", "b.c", "Get", &["x", "yz"]);
        assert_eq!(
            &bytes[..8],
            [b'l', CALL, 0, 1, 15, 0, 0, 0],
            "the length of the body: 4 1 1 and 2, then 4 2 1"
        );
        assert_eq!(&bytes[bytes.len() - 15..], b"\x01\0\0\0x\0\0\0\x02\0\0\0yz\0");
        let fields = usize::try_from(u32::from_le_bytes(bytes[12..16].try_into().unwrap())).unwrap();
        assert_eq!((16 + fields).next_multiple_of(8) + 15, bytes.len());
        assert_eq!(reply_serial(&bytes[16..16 + fields]), None, "and its fields can be read");
    }

    #[test]
    fn units_are_understood_and_signals_passed_over() {
        let body = listed(&[("a.service", "active", "running", 0), ("b.timer", "inactive", "dead", 3)]);
        let bytes = [message(4, 0, b"x"), message(RETURN, 1, &body)].concat();
        let found = answering(&bytes).unwrap().units().unwrap();
        let seen: Vec<_> =
            found.iter().map(|unit| (unit.name.as_str(), unit.sub.as_str(), unit.is_shown())).collect();
        assert_eq!(seen, [("a.service", "running", true), ("b.timer", "dead", true)]);
        assert!(!Listed { has_job: false, ..found[1].clone() }.is_shown());
    }

    #[test]
    fn a_unit_tells_more_or_has_gone() {
        let mut state = Writer::default();
        state.signature("s");
        state.text("enabled");
        let mut restarts = Writer::default();
        restarts.signature("u");
        restarts.number(4);
        let body = listed(&[("a.service", "active", "running", 0), ("b.timer", "active", "waiting", 0)]);
        let answers = [
            message(RETURN, 1, &body),
            message(RETURN, 2, &state.0),
            message(RETURN, 3, &restarts.0),
            message(ERROR, 4, b""),
        ];
        let mut systemd = answering(&answers.concat()).unwrap();
        let units = systemd.units().unwrap();
        let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        let told = systemd.show(&names, &[FILE, RESTARTS]).unwrap();
        assert_eq!(told, [["enabled", "4"], ["", ""]], "and of a timer no restarts were asked for");
    }

    #[test]
    fn units_are_where_systemd_has_them() {
        let of = |name| path(name).trim_start_matches("/org/freedesktop/systemd1/unit/").to_owned();
        assert_eq!(of("a-b@1.service"), "a_2db_401_2eservice");
        assert_eq!(of("9é.mount"), "_39_c3_a9_2emount");
        assert_eq!(GROUP.interface("a.socket").as_deref(), Some("org.freedesktop.systemd1.Socket"));
        assert_eq!((RESTARTS.interface("a.socket"), GROUP.interface("a")), (None, None));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let good = message(RETURN, 1, &listed(&[("a.service", "active", "running", 0)]));
        for cut in 0..good.len() {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(b"OK 0\r\n").unwrap();
            theirs.write_all(&good[..cut]).unwrap();
            drop(theirs);
            assert_eq!(Systemd::with(ours).and_then(|mut systemd| systemd.units()), None, "{cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(b"OK 0\r\n").unwrap();
            theirs.write_all(&bad).unwrap();
            drop(theirs);
            // It ends, and nothing is larger than what came.
            let _ = Systemd::with(ours).and_then(|mut systemd| systemd.units());
        }
        assert!(answering(&message(RETURN, 1, &listed(&[]))).unwrap().units().is_none(), "no units at all");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        assert!(Systemd::with(ours).is_none());
    }
}
