//! `volary init`, `serve` and what git runs on the server: thin doors to the server crate.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use tracing_subscriber::EnvFilter;
use volary_api::v1::fleet::ServerKeys;
use volary_server::{InitOptions, ServeOptions};

use crate::config::Connection;
use crate::failure::Failure;
use crate::out::Out;

/// Options of `volary init`.
#[derive(Args)]
pub struct InitArgs {
    /// The folder to make; everything the server keeps is in it
    dir: PathBuf,
    /// The fleet's name
    #[arg(long, default_value = "fleet")]
    fleet: String,
    /// A name or address under which devices reach the server; the first is used in links
    #[arg(long = "host", required = true, value_name = "HOST")]
    hosts: Vec<String>,
    /// The port to listen on
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// Your SSH private key, to sign the fleet's first commit; a new one is made if absent
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Who you are in the fleet's allowed_signers
    #[arg(long, default_value = "operator@localhost", value_name = "EMAIL")]
    operator: String,
}

/// Options of `volary serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// The server's folder, made by `volary init`
    dir: PathBuf,
    /// The address and port to listen on, instead of the configured one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<std::net::SocketAddr>,
}

/// What git runs.
#[derive(Subcommand)]
pub enum HookCommand {
    /// Judge a push: git gives it on standard input
    PreReceive,
}

/// Runs `volary init`.
pub fn init(args: InitArgs, out: &Out) -> Result<(), Failure> {
    let options = InitOptions {
        fleet: args.fleet,
        hosts: args.hosts,
        port: args.port,
        signing_key: args.signing_key,
        operator: args.operator,
    };
    let made = volary_server::init(&args.dir, &options)?;
    let value = json!({
        "dir": made.dir,
        "url": made.url,
        "client_config": made.client_config,
        "signing_key": made.signing_key,
        "made_key": made.made_key,
        "fleet_url": made.fleet_url,
    });
    out.show(&value, |_| {
        out.line(format!("{} is a server for {}", made.dir.display(), made.url));
        if made.made_key {
            out.line(format!(
                "a key was made that signs for the fleet: {}; keep it where only you can read it",
                made.signing_key.display()
            ));
        }
        out.line(format!(
            "start it:         volary serve {}\n\
             be its operator:  export VOLARY_CONFIG={}\n\
             begin:            volary clone fleet",
            made.dir.display(),
            made.client_config.display()
        ));
    });
    Ok(())
}

/// Runs `volary serve`.
pub fn serve(args: ServeArgs, out: &Out) -> Result<(), Failure> {
    log();
    let running = volary_server::serve(&args.dir, &ServeOptions { listen: args.listen })?;
    let value = json!({ "address": running.address(), "url": running.url() });
    out.show(&value, |_| {
        out.line(format!("{} answers on {}; stop it with Ctrl-C", running.url(), running.address()));
    });
    Ok(running.wait()?)
}

/// What happens is logged to standard error: coloured lines on a terminal, plain ones in a
/// journal. `RUST_LOG` chooses how much.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
}

/// Runs what git asks for. What is said here reaches the person who pushes.
pub fn hook(command: &HookCommand, out: &Out) -> Result<(), Failure> {
    let HookCommand::PreReceive = command;
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    match volary_server::pre_receive(&input) {
        Ok(()) => Ok(()),
        Err(refused) => {
            out.refusal(&refused.to_string());
            Err(Failure::no("nothing of this push was taken", None))
        }
    }
}

/// Runs `volary server-keys`.
pub fn keys(connection: &Connection, out: &Out) -> Result<(), Failure> {
    let keys: ServerKeys = connection.client()?.get("/api/v1/server-keys")?;
    out.show(&keys, |keys| {
        out.line("# signs why promotions were allowed (docs/evidence.md)");
        out.line(&keys.evidence);
        out.line("# merges into stages with `promote: automatic` in volary.yml");
        out.line(&keys.promotion);
    });
    Ok(())
}
