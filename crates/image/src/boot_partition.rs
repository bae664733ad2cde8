//! What is on the boot partition: the boot loader with its script, and files of the device type.

use std::collections::BTreeMap;
use std::path::Path;

use volary_boot::{GRUB_MODULES, Loader, UBootDisk, boot_scr, grub_script, uboot_script};
use volary_host::{create_dir, write_atomic};
use volary_model::{BootFile, BootLoader, Recipe};

use crate::error::BuildError;
use crate::layout::{Layout, TableKind};
use crate::sweep::Swept;
use crate::tools::Tools;

/// What GRUB needs of the firmware and the console, beside what its script needs.
const FIRMWARE_MODULES: [&str; 7] = ["all_video", "efi_gop", "gzio", "halt", "ls", "serial", "terminal"];

/// How the state of a new device is kept.
pub(crate) fn state_loader(recipe: &Recipe) -> Loader {
    match recipe.loader {
        BootLoader::GrubEfi => Loader::Grub,
        BootLoader::UBoot | BootLoader::RaspberryPi => Loader::UBoot,
    }
}

/// Makes the content of the boot partition in `folder`.
pub(crate) fn fill(
    recipe: &Recipe,
    layout: &Layout,
    swept: &Swept,
    fleet: &Path,
    tools: &Tools,
    epoch: u64,
    folder: &Path,
) -> Result<(), BuildError> {
    let put = |path: &str, bytes: &[u8]| -> Result<(), BuildError> {
        let path = folder.join(path);
        create_dir(path.parent().expect("it is in the folder"))?;
        Ok(write_atomic(&path, bytes, 0o644)?)
    };
    let script = script_layout(recipe, layout);
    match recipe.loader {
        BootLoader::GrubEfi => {
            put("EFI/BOOT/grub.cfg", grub_script(&script)?.as_bytes())?;
            grub(recipe, tools, epoch, folder)?;
        }
        BootLoader::UBoot | BootLoader::RaspberryPi => {
            let boot = if recipe.architecture.as_str() == "arm64" { "booti" } else { "bootz" };
            let device_tree = recipe.device_tree.clone();
            let disk = UBootDisk { own_environment: false, boot: boot.to_owned(), device_tree };
            put("boot.scr", &boot_scr(&uboot_script(&script, &disk)?))?;
        }
    }
    for (target, source) in &recipe.boot_files {
        match source {
            BootFile::Fleet(path) => put(target, &volary_host::read(&fleet.join(path))?)?,
            BootFile::Root(path) => {
                let found = files_of(path, &swept.files, &swept.links);
                if found.is_empty() {
                    return Err(BuildError::NoBootFile(path.clone()));
                }
                for (rest, bytes) in found {
                    put(&format!("{target}{rest}"), bytes)?;
                }
            }
        }
    }
    // Where a person puts a token.
    put("volary/README.txt", README.as_bytes())
}

const README: &str = "This folder is read at the first start of the device.\r\n\r\n\
    token      the join token of the fleet, as \"volary device token\" prints it\r\n\
    settings   lines KEY=VALUE: name, key (file or tpm); without a token: server, stage,\r\n\
    \x20          with the files ca.pem and allowed_signers beside it\r\n";

/// The files that a path in the root means, each with what its name adds to the target.
fn files_of<'a>(
    path: &str,
    files: &'a BTreeMap<String, Vec<u8>>,
    links: &BTreeMap<String, String>,
) -> Vec<(String, &'a [u8])> {
    let path = &path[1..];
    if path.ends_with('/') {
        let below = files.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(path)?, bytes)));
        return below.map(|(rest, bytes)| (rest.to_owned(), bytes.as_slice())).collect();
    }
    if path.contains('*') {
        // The last: the newest kernel's, if there are several.
        let found = files.iter().rfind(|(name, _)| matches(path, name));
        return found.map(|(_, bytes)| (String::new(), bytes.as_slice())).into_iter().collect();
    }
    // One link is followed: /vmlinuz, and what names the newest of several.
    let target = links.get(path).map(|link| {
        let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        link.strip_prefix('/').map_or_else(|| format!("{folder}{link}"), str::to_owned)
    });
    let name = target.as_deref().unwrap_or(path);
    files.get(name).map(|bytes| (String::new(), bytes.as_slice())).into_iter().collect()
}

/// True if a path fits a pattern, in which `*` stands for anything within one name.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => path.strip_prefix(before).is_some_and(|rest| {
            let name = rest.find('/').unwrap_or(rest.len());
            (0..=name).filter(|&at| rest.is_char_boundary(at)).any(|at| matches(after, &rest[at..]))
        }),
    }
}

fn script_layout(recipe: &Recipe, layout: &Layout) -> volary_boot::Layout {
    let number = |name: &str| layout.partition(name).expect("every layout has it").number;
    let mut arguments = vec!["rw".to_owned(), "panic=10".to_owned()];
    arguments.extend(recipe.command_line.iter().cloned());
    let serial = recipe.command_line.iter().find_map(|word| word.strip_prefix("console=ttyS"));
    let preamble = match (recipe.loader, serial) {
        (BootLoader::GrubEfi, Some(rest)) => {
            let (unit, speed) = rest.split_once(',').unwrap_or((rest, "115200"));
            let speed: String = speed.chars().take_while(char::is_ascii_digit).collect();
            vec![
                format!("serial --unit={unit} --speed={speed}"),
                "terminal_input serial console".to_owned(),
                "terminal_output serial console".to_owned(),
            ]
        }
        (BootLoader::GrubEfi | BootLoader::UBoot | BootLoader::RaspberryPi, _) => Vec::new(),
    };
    volary_boot::Layout {
        table: match layout.table {
            TableKind::Gpt => volary_boot::Table::Gpt,
            TableKind::Mbr => volary_boot::Table::Mbr,
        },
        bootenv: number("bootenv"),
        root_a: number("root-a"),
        root_b: number("root-b"),
        device_a: layout.tag("root-a"),
        device_b: layout.tag("root-b"),
        kernel: "/vmlinuz".to_owned(),
        initrd: "/initrd.img".to_owned(),
        arguments,
        preamble,
    }
}

/// GRUB as one file, where UEFI looks for it on a disk that it has never seen.
fn grub(recipe: &Recipe, tools: &Tools, epoch: u64, folder: &Path) -> Result<(), BuildError> {
    let (format, name) = match recipe.architecture.as_str() {
        "arm64" => ("arm64-efi", "BOOTAA64.EFI"),
        "armhf" => ("arm-efi", "BOOTARM.EFI"),
        "i386" => ("i386-efi", "BOOTIA32.EFI"),
        _ => ("x86_64-efi", "BOOTX64.EFI"),
    };
    tools
        .program("usr/bin/grub-mkimage", epoch)
        .args(["-O", format, "-p", "/EFI/BOOT", "-d"])
        .arg(tools.path(&format!("usr/lib/grub/{format}")))
        .arg("-o")
        .arg(folder.join("EFI/BOOT").join(name))
        .args(GRUB_MODULES)
        .args(FIRMWARE_MODULES)
        .check()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_name() {
        let check = |pattern: &str, path: &str, expected: bool| {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        };
        check("usr/lib/linux-image-*/b/x.dtb", "usr/lib/linux-image-6.1-arm64/b/x.dtb", true);
        check("usr/lib/linux-image-*/x.dtb", "usr/lib/linux-image-6.1/b/x.dtb", false);
        check("a*c", "abc", true);
        check("a*c", "ac", true);
        check("a*", "ab/c", false);
        check("*", "", true);
        check("a", "ab", false);
    }

    #[test]
    fn files_are_found_by_name_link_pattern_and_folder() {
        let files = ["boot/vmlinuz-1", "boot/vmlinuz-2", "lib/fw/a.bin", "lib/fw/b/c.bin"]
            .map(|name| (name.to_owned(), name.as_bytes().to_vec()));
        let files = BTreeMap::from(files);
        let links = BTreeMap::from([("vmlinuz".to_owned(), "boot/vmlinuz-1".to_owned())]);
        let check = |path: &str, expected: &[(&str, &str)]| {
            let found = files_of(path, &files, &links);
            let found: Vec<_> =
                found.iter().map(|(rest, b)| (rest.as_str(), std::str::from_utf8(b).unwrap())).collect();
            assert_eq!(found, expected, "{path}");
        };
        check("/lib/fw/a.bin", &[("", "lib/fw/a.bin")]);
        check("/vmlinuz", &[("", "boot/vmlinuz-1")]);
        check("/boot/vmlinuz-*", &[("", "boot/vmlinuz-2")]);
        check("/lib/fw/", &[("a.bin", "lib/fw/a.bin"), ("b/c.bin", "lib/fw/b/c.bin")]);
        check("/lib/none", &[]);
    }
}
