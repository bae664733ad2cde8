//! Running another architecture's programs: by qemu-user, which the kernel starts for them in one
//! user namespace. The machine as a whole learns nothing of it, and nothing is left behind.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use volary_model::Architecture;

use crate::error::SetupError;

/// What to tell the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Emulator {
    /// The emulator in the words of qemu: `qemu-aarch64`.
    pub(crate) name: String,
    /// A line for binfmt_misc.
    pub(crate) registration: String,
}

/// How the programs of an architecture are known.
struct Machine {
    architecture: &'static str,
    /// As qemu calls it.
    qemu: &'static str,
    bits: u8,
    big_endian: bool,
    /// `e_machine` of ELF.
    machine: u16,
}

const fn machine(architecture: &'static str, qemu: &'static str, bits: u8, machine: u16) -> Machine {
    Machine { architecture, qemu, bits, big_endian: false, machine }
}

/// What Debian 12 and 13 have ports or cross-compilers for.
const MACHINES: [Machine; 10] = [
    machine("amd64", "x86_64", 64, 62),
    machine("arm64", "aarch64", 64, 183),
    machine("armel", "arm", 32, 40),
    machine("armhf", "arm", 32, 40),
    machine("i386", "i386", 32, 3),
    machine("mips64el", "mips64el", 64, 8),
    machine("mipsel", "mipsel", 32, 8),
    machine("ppc64el", "ppc64le", 64, 21),
    machine("riscv64", "riscv64", 64, 243),
    Machine { architecture: "s390x", qemu: "s390x", bits: 64, big_endian: true, machine: 22 },
];

/// True if packages for an architecture can be built on a machine of another one.
pub fn can_emulate(architecture: &Architecture) -> bool {
    find(architecture).is_some()
}

/// The architectures that packages can be built for on any machine.
pub fn emulated() -> String {
    MACHINES.map(|machine| machine.architecture).join(", ")
}

fn find(architecture: &Architecture) -> Option<&'static Machine> {
    MACHINES.iter().find(|machine| machine.architecture == architecture.as_str())
}

impl Emulator {
    /// The emulator of an architecture, as this machine has it.
    pub(crate) fn of(architecture: &Architecture) -> Result<Self, SetupError> {
        let machine = find(architecture).ok_or_else(|| SetupError::NoEmulator {
            architecture: architecture.clone(),
            known: emulated(),
        })?;
        let name = format!("qemu-{}", machine.qemu);
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian 13 has them without the ending.
        let found = [format!("{name}-static"), name.clone()].into_iter().find_map(|program| {
            std::env::split_paths(&path).map(|dir| dir.join(&program)).find(|path| path.is_file())
        });
        let interpreter: PathBuf =
            found.ok_or_else(|| SetupError::MissingEmulator { program: format!("{name}-static") })?;
        Ok(Self { registration: registration(&name, machine, &interpreter), name })
    }
}

/// The line by which the kernel knows programs of a machine: by the first 20 bytes of an ELF file.
fn registration(name: &str, machine: &Machine, interpreter: &Path) -> String {
    let mut magic = vec![0x7f, b'E', b'L', b'F', machine.bits / 32, 1 + u8::from(machine.big_endian), 1];
    magic.resize(16, 0);
    // An executable is of type 2, or 3 if it runs anywhere; the mask leaves out that bit.
    let words = [2, machine.machine];
    let mut mask = vec![0xff; 20];
    // Any operating system of the ELF header: old compilers write 0, new ones 3.
    mask[7] = 0;
    mask[if machine.big_endian { 17 } else { 16 }] = 0xfe;
    for word in words {
        magic.extend(if machine.big_endian { word.to_be_bytes() } else { word.to_le_bytes() });
    }
    // F: opened now, so that it need not be in the chroot. P: programs see the name that they were
    // called by.
    format!(":{name}:M::{}:{}:{}:FP", escaped(&magic), escaped(&mask), interpreter.display())
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "\\x{byte:02x}").expect("a String takes any write");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_as_debian_knows_them() {
        // What the package qemu-user-static tells the kernel, but for the emulator's path.
        let folder = Path::new("/usr/lib/binfmt.d");
        let mut compared = 0;
        for machine in &MACHINES {
            let name = format!("qemu-{}", machine.qemu);
            let Ok(theirs) = volary_host::read_to_string(&folder.join(format!("{name}.conf"))) else {
                continue;
            };
            let ours = registration(&name, machine, Path::new("/q"));
            let [ours, theirs] = [&ours, &theirs].map(|line| line.split(':').collect::<Vec<_>>());
            // Of MIPS theirs goes on with flags that tell ABIs apart; Debian has one of them.
            let [ours, theirs] = [ours[4], theirs[4]].map(str::to_lowercase);
            let is_same = ours == theirs || name.starts_with("qemu-mips") && theirs.starts_with(&ours);
            assert!(is_same, "the magic of {name}: {ours} {theirs}");
            compared += 1;
        }
        // amd64 and i386 cannot be had from the package on amd64 itself.
        assert!(compared >= 8, "qemu-user-static is not installed: scripts/setup installs it");
    }

    #[test]
    fn an_unknown_architecture_is_refused() {
        let error = Emulator::of(&"sparc64".parse().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("there is no emulator for sparc64"), "{error}");
    }
}
