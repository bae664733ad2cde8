//! `volary archive keys`: which keys sign the archive, and how one takes the place of another.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use volary_api::v1::keys::{AddKey, Key, KeySource, Keys, Retire, RetiredKey};
use volary_plan::text::some;

use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago};

/// What to do with the keys.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// List the keys that sign every suite
    List,
    /// Make a key that signs too
    Generate,
    /// Bring a key that signs too
    Add {
        #[command(flatten)]
        source: Source,
    },
    /// Begin a rotation: a new key signs beside those that are there until these are retired
    Rotate {
        #[command(flatten)]
        source: Source,
    },
    /// End a rotation: the keys that leave sign no more, and their secret parts are removed
    Retire {
        /// This key instead of those that leave; the new key of a rotation takes it back
        fingerprint: Option<String>,
        /// Also if a stage or device has none of the keys that stay: it gets no updates until then
        #[arg(long)]
        force: bool,
    },
}

/// Where a key comes from.
#[derive(Args)]
pub struct Source {
    /// An armored secret key without a passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "signer")]
    secret: Option<PathBuf>,
    /// The command of server.toml that signs with it, for a key in hardware
    #[arg(long, value_name = "NAME", requires = "public")]
    signer: Option<String>,
    /// The armored public key of that signer
    #[arg(long, value_name = "FILE", requires = "signer")]
    public: Option<PathBuf>,
}

impl Source {
    fn read(&self) -> Result<Option<KeySource>, Failure> {
        Ok(match (&self.secret, &self.signer, &self.public) {
            (Some(file), _, _) => Some(KeySource::Secret { armored: volary_host::read_to_string(file)? }),
            (None, Some(name), Some(file)) => {
                Some(KeySource::Signer { name: name.clone(), public: volary_host::read_to_string(file)? })
            }
            _ => None,
        })
    }
}

const PATH: &str = "/api/v1/archive/keys";

/// Runs `volary archive keys …`.
pub fn run(command: &KeysCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        KeysCommand::List => {
            let keys: Keys = client.get(PATH)?;
            out.show(&keys, |keys| list(keys, out));
        }
        KeysCommand::Generate => {
            let key: Key = client.post(PATH, &AddKey { source: KeySource::Generate, rotate: false })?;
            out.show(&key, |key| added(key, out));
        }
        KeysCommand::Add { source } => {
            let source = source.read()?.ok_or_else(|| {
                Failure::with_help(
                    anyhow::anyhow!("no key was named"),
                    "name one with --secret FILE, or with --signer NAME --public FILE; \
                     to have one made: volary archive keys generate",
                )
            })?;
            let key: Key = client.post(PATH, &AddKey { source, rotate: false })?;
            out.show(&key, |key| added(key, out));
        }
        KeysCommand::Rotate { source } => {
            let source = source.read()?.unwrap_or(KeySource::Generate);
            let key: Key = client.post(PATH, &AddKey { source, rotate: true })?;
            out.show(&key, |key| {
                out.line(format!("{} signs every suite, beside the keys that leave", key.fingerprint));
                next_steps(out);
                out.line("when all devices have it:  volary archive keys retire");
            });
        }
        KeysCommand::Retire { fingerprint, force } => {
            let request = Retire { fingerprint: fingerprint.clone(), force: *force };
            let gone: Vec<RetiredKey> = client.post(&format!("{PATH}/retire"), &request)?;
            out.show(&gone, |gone| {
                for key in gone {
                    out.line(format!("{} signs no more", key.fingerprint));
                }
                out.line("take it out of the fleet repository, in a clone:  volary bump --keys");
            });
        }
    }
    Ok(())
}

fn added(key: &Key, out: &Out) {
    out.line(format!("{} signs every suite too", key.fingerprint));
    next_steps(out);
}

fn next_steps(out: &Out) {
    out.line("bring it to the devices, in a clone of the fleet repository:");
    out.line("  volary bump --keys       commits .volary/archive.asc; compare the fingerprint");
    out.line("  volary promote …         from stage to stage");
}

fn list(keys: &Keys, out: &Out) {
    let rows = keys
        .keys
        .iter()
        .map(|key| {
            let state = match key.leaving {
                None => out.tone(Tone::Good, "signs"),
                Some(at) => out.tone(Tone::Warn, format!("leaves, since {}", ago(at))),
            };
            let place = key.signer.as_ref().map_or("on the server".into(), |name| format!("signer {name}"));
            vec![key.fingerprint.clone(), state, ago(key.since), place, key.user_id.clone()]
        })
        .collect();
    out.table(&["KEY", "STATE", "SINCE", "KEPT", "USER ID"], rows, "no key");
    for key in &keys.retired {
        let line = format!("{} was retired {}", key.fingerprint, ago(key.until));
        out.line(out.tone(Tone::Dim, line));
    }
    if !keys.all_signed {
        out.line(
            out.tone(Tone::Bad, "some suites wait to be signed by these keys; the server's log says why"),
        );
    }
    if !keys.not_yet.is_empty() {
        out.line(format!("without a key that stays: {}", some(&keys.not_yet, 20)));
    }
}
