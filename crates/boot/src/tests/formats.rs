//! The bytes of each form, against properties and the tools of others.

use proptest::prelude::*;
use volary_host::Cmd;
use volary_model::Slot;

use super::cut::{Content, apply, areas};
use crate::{
    BootState, ENVIRONMENT_OFFSETS, ENVIRONMENT_SIZE, Layout, Loader, MenderParts, Place, Table, Trial,
    UBootDisk, block, boot_scr, grub_script, uboot_script,
};

const LOADERS: [Loader; 3] = [Loader::Grub, Loader::UBoot, Loader::MenderGrub(MenderParts { a: 2, b: 3 })];

pub fn layout(table: Table) -> Layout {
    Layout {
        table,
        bootenv: 2,
        root_a: 3,
        root_b: 4,
        device_a: "PARTLABEL=root-a".to_owned(),
        device_b: "PARTLABEL=root-b".to_owned(),
        kernel: "/vmlinuz".to_owned(),
        initrd: "/initrd.img".to_owned(),
        arguments: ["ro", "panic=10", "console=ttyS0,115200"].map(str::to_owned).into(),
        preamble: Vec::new(),
    }
}

fn change(loader: Loader, content: &mut Content, state: BootState) {
    let writes = loader.writes(&areas(loader, content), state);
    apply(content, &writes);
}

#[test]
fn every_state_comes_back_from_every_other() {
    for loader in LOADERS {
        for before in BootState::ALL {
            let mut content = Content::new();
            apply(&mut content, &loader.initial(before));
            let found = loader.read(&areas(loader, &content)).unwrap();
            assert_eq!((found.state, found.damaged.as_slice()), (before, &[][..]), "{loader:?}");
            for after in BootState::ALL {
                let mut content = content.clone();
                change(loader, &mut content, after);
                let found = loader.read(&areas(loader, &content)).unwrap();
                assert_eq!((found.state, found.damaged.as_slice()), (after, &[][..]), "{loader:?}");
            }
        }
    }
}

#[test]
fn whatever_is_damaged_is_told_and_mended() {
    for loader in LOADERS {
        let state = BootState::on_trial(Slot::B);
        let mut content = Content::new();
        apply(&mut content, &loader.initial(state));
        for area in loader.areas() {
            let mut content = content.clone();
            content.get_mut(&area.place).unwrap()[..40].fill(0xA5);
            let found = loader.read(&areas(loader, &content)).unwrap();
            assert_eq!(found.state, state, "{loader:?} {area:?}");
            assert!(!found.damaged.is_empty(), "{loader:?} {area:?}");
            change(loader, &mut content, state);
            let found = loader.read(&areas(loader, &content)).unwrap();
            assert_eq!((found.state, found.damaged.as_slice()), (state, &[][..]), "{loader:?} {area:?}");
        }
        for place in content.clone().keys() {
            content.get_mut(place).unwrap()[..40].fill(0xA5);
        }
        let lost = loader.read(&areas(loader, &content)).unwrap_err();
        assert!(lost.to_string().contains("copy 1: ") && lost.to_string().contains("copy 2: "), "{lost}");
        assert!(loader.read(&[]).is_err());
        change(loader, &mut content, state);
        assert_eq!(loader.read(&areas(loader, &content)).unwrap().state, state);
    }
}

#[test]
fn the_rule_of_a_boot() {
    let begun = |slot| BootState { slot, trial: Some(Trial::Begun) };
    assert_eq!(BootState::confirmed(Slot::A).at_boot(), BootState::confirmed(Slot::A));
    assert_eq!(BootState::on_trial(Slot::B).at_boot(), begun(Slot::B));
    assert_eq!(begun(Slot::B).at_boot(), BootState::confirmed(Slot::A));
    for state in BootState::ALL {
        // Two boots after anything the device is where it is confirmed, unless somebody confirmed.
        assert_eq!(state.at_boot().at_boot().confirmed_slot(), state.confirmed_slot());
    }
}

fn variables() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(("[a-z_]{1,12}", "[ -~\n]{0,30}"), 0..8)
}

proptest! {
    #[test]
    fn blocks_of_grub_come_back(variables in variables()) {
        let bytes = block::encode(1024, variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        prop_assert_eq!(bytes.len(), 1024);
        // A newline is escaped, but ends the line all the same for a reader as plain as ours.
        if variables.iter().all(|(_, value)| !value.contains('\n')) {
            prop_assert_eq!(block::decode(&bytes).unwrap(), variables);
        }
    }

    #[test]
    fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..600) {
        let _ = block::decode(&bytes);
        let mut block = block::encode(512, [("volary", "a")]);
        for (number, byte) in bytes.iter().enumerate().take(8) {
            block[(at + number) % 512] = *byte;
        }
        for loader in LOADERS {
            let _ = loader.read(&vec![block.clone(); 4]);
        }
    }

    #[test]
    fn one_wrong_bit_is_seen_by_u_boot_s_checksum(at in 0..ENVIRONMENT_SIZE - 1, bit in 0u32..8) {
        let mut content = Content::new();
        apply(&mut content, &Loader::UBoot.initial(BootState::on_trial(Slot::A)));
        // The serial number is not covered.
        let at = if at >= 4 { at + 1 } else { at };
        content.get_mut(&Place::Offset(0)).unwrap()[at] ^= 1 << bit;
        let found = Loader::UBoot.read(&areas(Loader::UBoot, &content)).unwrap();
        prop_assert!(found.damaged[0].contains("checksum"));
    }
}

#[test]
fn words_that_a_shell_would_read_are_refused() {
    for word in ["a b", "$x", "a;b", "'", "a&b", ""] {
        let mut layout = layout(Table::Gpt);
        layout.arguments.push(word.to_owned());
        assert!(grub_script(&layout).is_err(), "{word:?}");
        let disk = UBootDisk { own_environment: false, boot: "booti".to_owned(), device_tree: None };
        assert!(uboot_script(&layout, &disk).is_err(), "{word:?}");
    }
}

#[test]
fn the_locks_of_mender_have_the_checksum_beside_them() {
    let loader = Loader::MenderGrub(MenderParts { a: 2, b: 3 });
    let folder = tempfile::tempdir().unwrap();
    for write in loader.initial(BootState::confirmed(Slot::A)) {
        let Place::File(file) = write.place else { panic!("{:?}", write.place) };
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, write.bytes).unwrap();
    }
    for copy in ["mender_grubenv1", "mender_grubenv2"] {
        let sum = Cmd::new("sha256sum").args(["-c", "lock.sha256sum"]).cwd(folder.path().join(copy));
        sum.check().unwrap();
    }
}

/// `fw_printenv` and `fw_setenv` on a file that holds the partition.
pub struct UBootTools {
    folder: tempfile::TempDir,
}

impl UBootTools {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bootenv");
        let lines = ENVIRONMENT_OFFSETS
            .map(|offset| format!("{} {offset:#x} {ENVIRONMENT_SIZE:#x}\n", path.display()));
        std::fs::write(folder.path().join("fw_env.config"), lines.concat()).unwrap();
        Self { folder }
    }

    pub fn put(&self, content: &Content) {
        let mut bytes = vec![0; 1 << 20];
        for (place, part) in content {
            let Place::Offset(at) = place else { panic!("{place:?}") };
            bytes[*at as usize..*at as usize + part.len()].copy_from_slice(part);
        }
        std::fs::write(self.folder.path().join("bootenv"), bytes).unwrap();
    }

    pub fn get(&self) -> Content {
        let bytes = std::fs::read(self.folder.path().join("bootenv")).unwrap();
        let part = |at: u64| bytes[at as usize..at as usize + ENVIRONMENT_SIZE].to_vec();
        ENVIRONMENT_OFFSETS.map(|at| (Place::Offset(at), part(at))).into()
    }

    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let config = self.folder.path().join("fw_env.config");
        let command = Cmd::new(program).arg("-c").arg(config).args(args);
        command
            .check()
            .expect("these tests need Debian's package libubootenv-tool; `make setup` installs it")
            .text()
    }
}

#[test]
fn the_tools_of_u_boot_read_what_we_write_and_we_what_they_write() {
    let tools = UBootTools::new();
    let loader = Loader::UBoot;
    let mut content = Content::new();
    apply(&mut content, &loader.initial(BootState::confirmed(Slot::A)));
    for state in BootState::ALL.into_iter().cycle().take(300) {
        change(loader, &mut content, state);
        tools.put(&content);
        let names = ["volary_slot", "upgrade_available", "bootcount"];
        let said = tools.run("fw_printenv", &names);
        let upgrade = u8::from(state.trial.is_some());
        let count = u8::from(state.trial == Some(Trial::Begun));
        let expected = format!("volary_slot={}\nupgrade_available={upgrade}\nbootcount={count}", state.slot);
        assert_eq!(said.trim(), expected);
        // Theirs goes forward from ours, and what others keep there stays.
        tools.run("fw_setenv", &["ethaddr", "02:00:00:00:00:01"]);
        content = tools.get();
        assert_eq!(loader.read(&areas(loader, &content)).unwrap().state, state);
    }
    change(loader, &mut content, BootState::on_trial(Slot::B));
    tools.put(&content);
    assert_eq!(tools.run("fw_printenv", &["ethaddr"]).trim(), "ethaddr=02:00:00:00:00:01");
}

#[test]
fn the_script_file_of_u_boot_is_what_its_own_tool_lists() {
    let disk = UBootDisk { own_environment: false, boot: "booti".to_owned(), device_tree: None };
    let script = uboot_script(&layout(Table::Gpt), &disk).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("boot.scr");
    std::fs::write(&path, boot_scr(&script)).unwrap();
    let listed = Cmd::new("mkimage").arg("-l").arg(&path).check().unwrap().text();
    assert!(listed.contains("Script") && listed.contains("volary"), "{listed}");
}
