//! The boot state of GRUB on devices that come from Mender: two environment files, each with a lock.
//!
//! As the scripts of grub-mender-grubenv have it: a copy whose lock says that it is being edited is
//! not looked at and is mended from the other. So each file is written where it is, in this order:
//! lock 2, copy 2, lock 2, lock 1, copy 1, lock 1.

use volary_model::Slot;

use crate::state::{BootState, Trial};
use crate::{Area, Found, Lost, MenderParts, Place, Write, block};

/// All files but the checksums have this length.
const LENGTH: usize = 1024;

const ENV1: &str = "mender_grubenv1/env";
const LOCK1: &str = "mender_grubenv1/lock";
const SUM1: &str = "mender_grubenv1/lock.sha256sum";
const ENV2: &str = "mender_grubenv2/env";
const LOCK2: &str = "mender_grubenv2/lock";
const SUM2: &str = "mender_grubenv2/lock.sha256sum";

/// The variables that we mean something by, in the order that Mender's tools write them.
const BOOTCOUNT: &str = "bootcount";
const PART: &str = "mender_boot_part";
const UPGRADE: &str = "upgrade_available";
const OURS: [&str; 3] = [BOOTCOUNT, PART, UPGRADE];
const EDITING: &str = "editing";

/// The checksum of a lock that is open, as `sha256sum` writes it: Mender's own tools want it beside.
const OPEN_SUM: &str = "eba0a3647c8f60f467b15873c9cc87dbac22f928e6e4264f23f1020163498c6e  lock\n";

pub fn areas() -> Vec<Area> {
    [LOCK1, ENV1, LOCK2, ENV2].map(|file| Area { place: Place::File(file), length: LENGTH }).into()
}

pub fn read(areas: &[Vec<u8>], parts: MenderParts) -> Result<Found, Lost> {
    let copies = Copies::of(areas);
    let mut damaged = Vec::new();
    for (open, number) in [(copies.open[0], 1), (copies.open[1], 2)] {
        if !open {
            damaged.push(format!("copy {number}: its lock does not say that it is whole"));
        }
    }
    let mut state = None;
    for number in copies.order() {
        match (one(copies.env[number], parts), state) {
            (Ok(found), None) => state = Some(found),
            (Ok(found), Some(state)) if found != state => {
                damaged.push(format!("copy {} says {found}", number + 1));
            }
            (Ok(_), Some(_)) => {}
            (Err(why), _) => damaged.push(format!("copy {}: {why}", number + 1)),
        }
    }
    match state {
        Some(state) => Ok(Found { state, damaged }),
        None => Err(Lost(damaged)),
    }
}

/// What was read, by copy.
struct Copies<'a> {
    open: [bool; 2],
    env: [&'a [u8]; 2],
}

impl<'a> Copies<'a> {
    fn of(areas: &'a [Vec<u8>]) -> Self {
        let area = |number: usize| areas.get(number).map_or(&[][..], Vec::as_slice);
        let open = |bytes: &[u8]| {
            block::decode(bytes).is_ok_and(|variables| block::get(&variables, EDITING) == Some("0"))
        };
        Self { open: [open(area(0)), open(area(2))], env: [area(1), area(3)] }
    }

    /// The copies that GRUB would boot by, the first one first. It looks at lock 2, then at lock 1.
    fn order(&self) -> Vec<usize> {
        match self.open {
            [true, true] => vec![0, 1],
            [_, false] => vec![0],
            [false, true] => vec![1],
        }
    }
}

fn one(bytes: &[u8], parts: MenderParts) -> Result<BootState, String> {
    let variables = block::decode(bytes)?;
    let value = |name: &str| block::get(&variables, name).ok_or_else(|| format!("it has no variable {name}"));
    let flag = |name: &str| match value(name)? {
        "0" => Ok(false),
        "1" => Ok(true),
        other => Err(format!("{name} is {other:?}, not 0 or 1")),
    };
    let part = value(PART)?;
    let slot = match part.parse::<u32>() {
        Ok(number) if number == parts.a => Slot::A,
        Ok(number) if number == parts.b => Slot::B,
        Ok(_) | Err(_) => {
            return Err(format!("{PART} is {part:?}, not {} or {}", parts.a, parts.b));
        }
    };
    let trial = match (flag(UPGRADE)?, flag(BOOTCOUNT)?) {
        (false, _) => None,
        (true, false) => Some(Trial::New),
        (true, true) => Some(Trial::Begun),
    };
    Ok(BootState { slot, trial })
}

pub fn writes(areas: &[Vec<u8>], parts: MenderParts, state: BootState) -> Vec<Write> {
    let copies = Copies::of(areas);
    let kept = copies.order().into_iter().find_map(|number| block::decode(copies.env[number]).ok());
    let env = env(kept.unwrap_or_default(), parts, state);
    let write = |file, bytes: &[u8]| Write { place: Place::File(file), bytes: bytes.to_vec() };
    let mut writes = Vec::with_capacity(6);
    // The copy that is not whole first: else the other would be closed while this one is.
    let both = match copies.open {
        [false, true] => [(LOCK1, ENV1), (LOCK2, ENV2)],
        [_, _] => [(LOCK2, ENV2), (LOCK1, ENV1)],
    };
    for (lock, file) in both {
        writes.push(write(lock, &lock_block(true)));
        writes.push(write(file, &env));
        writes.push(write(lock, &lock_block(false)));
    }
    writes
}

pub fn initial(parts: MenderParts, state: BootState) -> Vec<Write> {
    let env = env(Vec::new(), parts, state);
    let lock = lock_block(false);
    let write = |file, bytes: &[u8]| Write { place: Place::File(file), bytes: bytes.to_vec() };
    vec![
        write(LOCK1, &lock),
        write(SUM1, OPEN_SUM.as_bytes()),
        write(ENV1, &env),
        write(LOCK2, &lock),
        write(SUM2, OPEN_SUM.as_bytes()),
        write(ENV2, &env),
    ]
}

fn env(others: Vec<(String, String)>, parts: MenderParts, state: BootState) -> Vec<u8> {
    let part = match state.slot {
        Slot::A => parts.a,
        Slot::B => parts.b,
    }
    .to_string();
    let (upgrade, bootcount) = match state.trial {
        None => ("0", "0"),
        Some(Trial::New) => ("1", "0"),
        Some(Trial::Begun) => ("1", "1"),
    };
    let ours = [(BOOTCOUNT, bootcount), (PART, part.as_str()), (UPGRADE, upgrade)];
    let others = others
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !OURS.contains(name));
    block::encode(LENGTH, ours.into_iter().chain(others))
}

fn lock_block(editing: bool) -> Vec<u8> {
    block::encode(LENGTH, [(EDITING, if editing { "1" } else { "0" })])
}
