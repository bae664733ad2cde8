//! `volary artifact`: update artifacts in Mender's format, on this machine, without a server.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use volary_artifact::{
    Depends, Draft, Encoding, Info, PayloadDraft, Policy, PrivateKey, PublicKey, Script, Signature, Source,
    WriteOptions,
};
use volary_host::NewFile;

use crate::failure::Failure;
use crate::out::{Out, Tone, bytes};

/// What to do with an artifact.
#[derive(Subcommand)]
pub enum ArtifactCommand {
    /// Show what an artifact says about itself, without reading its payload
    Inspect {
        /// The artifact
        file: PathBuf,
    },
    /// Check every checksum of an artifact, and its signature if keys are given
    Verify {
        /// The artifact
        file: PathBuf,
        /// A public key (PEM) of which one must have signed it; may be given several times
        #[arg(long = "key", value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// Sign an artifact; an older signature is replaced
    Sign {
        /// The artifact
        file: PathBuf,
        /// The private key (PEM): RSA or ECDSA P-256
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where the signed artifact goes; in place of the old one if absent
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make an artifact from a root file system image, or from files for an update module
    Write(WriteArgs),
}

/// Options of `volary artifact write`.
#[derive(Args)]
pub struct WriteArgs {
    /// Where the artifact goes
    output: PathBuf,
    /// The image, or the files for the module
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The artifact's name, which a device reports after installing it
    #[arg(long)]
    name: String,
    /// A device type that may take it; may be given several times
    #[arg(long = "device-type", required = true)]
    device_types: Vec<String>,
    /// The update module that the files are for; without it the one file is a root file system
    #[arg(long)]
    module: Option<String>,
    /// A state script, named as Mender wants it: ArtifactInstall_Enter_00
    #[arg(long = "script", value_name = "FILE")]
    scripts: Vec<PathBuf>,
    /// none, gzip, lzma, zstd_fastest, zstd_fast, zstd_better or zstd_best
    #[arg(long, default_value = "gzip")]
    compression: String,
    /// The private key to sign with (PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Runs `volary artifact …`.
pub fn run(command: ArtifactCommand, out: &Out) -> Result<(), Failure> {
    match command {
        ArtifactCommand::Inspect { file } => {
            let info =
                volary_artifact::inspect(open(&file)?, &Policy::unsigned()).with_context(|| about(&file))?;
            out.show(&info, |info| show(info, out));
        }
        ArtifactCommand::Verify { file, keys } => {
            let keys: Vec<PublicKey> =
                keys.iter().map(|path| read_key(path, PublicKey::from_pem)).collect::<Result<_, _>>()?;
            let policy = if keys.is_empty() { Policy::unsigned() } else { Policy::signed_by(&keys) };
            let info = volary_artifact::verify(open(&file)?, &policy).with_context(|| about(&file))?;
            out.show(&info, |info| {
                let size = bytes(info.payload_size());
                out.line(format!(
                    "{} is whole: {} ({size} unpacked)",
                    file.display(),
                    signature(&info.signature)
                ));
            });
        }
        ArtifactCommand::Sign { file, key, output } => {
            let key = read_key(&key, PrivateKey::from_pem)?;
            let target = output.unwrap_or_else(|| file.clone());
            let mut signed = NewFile::create(&target, 0o644)?;
            volary_artifact::sign_copy(open(&file)?, signed.file(), &key, &Policy::unsigned())
                .with_context(|| about(&file))?;
            signed.keep()?;
            out.line(format!("{} is signed", target.display()));
        }
        ArtifactCommand::Write(args) => write(&args, out)?,
    }
    Ok(())
}

fn about(file: &Path) -> String {
    format!("{} is not a sound artifact", file.display())
}

fn open(file: &Path) -> Result<BufReader<File>, Failure> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(BufReader::with_capacity(1 << 20, opened))
}

/// A key in a PEM file.
pub fn read_key<K>(path: &Path, parse: fn(&str) -> Result<K, volary_artifact::Error>) -> Result<K, Failure> {
    let pem = volary_host::read_to_string(path)?;
    Ok(parse(&pem).with_context(|| format!("{} is no key for artifacts", path.display()))?)
}

fn write(args: &WriteArgs, out: &Out) -> Result<(), Failure> {
    let encoding: Encoding = args.compression.parse().map_err(anyhow::Error::from)?;
    let key = args.key.as_deref().map(|path| read_key(path, PrivateKey::from_pem)).transpose()?;
    let mut sources = args.files.iter().map(|path| source(path)).collect::<Result<Vec<_>, _>>()?;
    let payload = match &args.module {
        Some(module) => PayloadDraft::module(module, &args.name, sources),
        None if sources.len() == 1 => PayloadDraft::rootfs_image(&args.name, sources.remove(0)),
        None => {
            let error = anyhow!("{} files are no root file system", sources.len());
            return Err(Failure::with_help(error, "give one image, or name the update module with --module"));
        }
    };
    let scripts = args.scripts.iter().map(|path| script(path)).collect::<Result<Vec<_>, _>>()?;
    let draft = Draft {
        name: args.name.clone(),
        depends: Depends { device_types: args.device_types.clone(), ..Depends::default() },
        scripts,
        payloads: vec![payload],
        ..Draft::default()
    };
    let options = WriteOptions { encoding, key: key.as_ref(), ..WriteOptions::default() };
    let mut file = NewFile::create(&args.output, 0o644)?;
    let written = volary_artifact::write(file.file(), draft, &options)
        .with_context(|| format!("cannot make {}", args.output.display()))?;
    file.keep()?;
    out.show(&written.info, |_| {
        out.line(format!("{} is made: {}", args.output.display(), bytes(written.size)));
    });
    Ok(())
}

fn file_name(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.ok_or_else(|| anyhow!("{} has no name that an artifact can hold", path.display()))?.to_owned())
}

fn source(path: &Path) -> Result<Source<'static>, Failure> {
    let content = open(path)?;
    let size = content.get_ref().metadata()?.len();
    Ok(Source::new(file_name(path)?, size, content))
}

fn script(path: &Path) -> Result<Script, Failure> {
    Ok(Script { name: file_name(path)?, content: volary_host::read(path)? })
}

fn signature(signature: &Signature) -> String {
    match signature {
        Signature::Absent => "not signed".into(),
        Signature::Unchecked => "signed, and no key was given to check it with".into(),
        Signature::Verified { key } => format!("signed by {key}"),
    }
}

fn show(info: &Info, out: &Out) {
    let row =
        |name: &str, value: &str| out.line(format!("{}{value}", out.tone(Tone::Dim, format!("{name:<14}"))));
    row("artifact", &info.name);
    if let Some(group) = &info.group {
        row("group", group);
    }
    row("for", &info.depends.device_types.join(", "));
    if !info.depends.names.is_empty() {
        row("after", &info.depends.names.join(", "));
    }
    row("signature", &signature(&info.signature));
    for script in &info.scripts {
        row("script", &format!("{} ({})", script.name, bytes(script.size)));
    }
    for payload in &info.payloads {
        row("payload", &payload.kind.to_string());
        for file in &payload.files {
            row("  file", &format!("{} {}", file.name, file.digest));
        }
        for (key, value) in &payload.provides {
            row("  provides", &format!("{key}={value}"));
        }
        for (key, values) in &payload.depends {
            row("  depends", &format!("{key}={}", values.join(" or ")));
        }
        if let Some(patterns) = &payload.clears_provides {
            row("  clears", &patterns.join(", "));
        }
    }
}
