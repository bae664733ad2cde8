//! `volary api`: the server's HTTP API, described and asked.

use std::io::{Read, Write};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::config::Connection;
use crate::failure::Failure;
use crate::out::Out;

/// What to do with the API.
#[derive(Subcommand)]
pub enum ApiCommand {
    /// List what can be asked, and the role that it needs
    List {
        /// Only where the method, path or sentence has this in it
        #[arg(default_value = "")]
        part: String,
    },
    /// Print the OpenAPI document of this version; it needs no server
    Openapi,
    /// Ask the server, and print its answer as it is
    Call(CallArgs),
}

/// A request.
#[derive(Args)]
pub struct CallArgs {
    /// GET, POST, PUT or DELETE
    #[arg(value_parser = method)]
    method: String,
    /// The path with its query: /api/v1/status
    path: String,
    /// The body: a JSON text, @FILE for a file, or - for standard input
    #[arg(long, value_name = "BODY")]
    data: Option<String>,
}

/// A described route.
#[derive(Serialize)]
struct Row {
    method: String,
    path: String,
    /// The role that is needed; empty if none is.
    role: String,
    summary: String,
}

fn method(text: &str) -> Result<String, String> {
    let method = text.to_ascii_uppercase();
    match method.as_str() {
        "GET" | "POST" | "PUT" | "DELETE" => Ok(method),
        _ => Err("the API has GET, POST, PUT and DELETE".to_owned()),
    }
}

/// Runs `volary api …`.
pub fn run(command: ApiCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    match command {
        ApiCommand::List { part } => list(&part, out),
        ApiCommand::Openapi => out.raw(&format!("{:#}\n", volary_server::openapi())),
        ApiCommand::Call(args) => call(&args, connection, out)?,
    }
    Ok(())
}

fn list(part: &str, out: &Out) {
    let paths = volary_server::openapi()["paths"].as_object();
    let paths = paths.into_iter().flatten();
    let routes = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| row(method, path, operation))
    });
    let part = part.to_lowercase();
    let has =
        |row: &Row| format!("{} {} {}", row.method, row.path, row.summary).to_lowercase().contains(&part);
    let rows: Vec<Row> = routes.filter(has).collect();
    out.show(&rows, |rows| {
        let rows = rows
            .iter()
            .map(|row| vec![row.method.clone(), row.path.clone(), row.role.clone(), row.summary.clone()])
            .collect();
        out.table(&["METHOD", "PATH", "ROLE", ""], rows, "nothing of the API is like that");
    });
}

fn row(method: &str, path: &str, operation: &Value) -> Row {
    let needs = &operation["security"][0];
    let role = match (needs.get("token"), needs.get("device")) {
        (Some(roles), _) => roles[0].as_str().unwrap_or("any"),
        (None, Some(_)) => "a device",
        (None, None) => "",
    };
    Row {
        method: method.to_ascii_uppercase(),
        path: path.to_owned(),
        role: role.to_owned(),
        summary: operation["summary"].as_str().unwrap_or_default().to_owned(),
    }
}

fn call(args: &CallArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    if !args.path.starts_with('/') {
        return Err(Failure::with_help(
            anyhow::anyhow!("{:?} is no path", args.path),
            "write it from its first slash, as in /api/v1/status; see: volary api list",
        ));
    }
    let body = args.data.as_deref().map(data).transpose()?;
    let answer = connection.client()?.call(&args.method, &args.path, body)?;
    // Bytes, since logs and files are asked for in the same way.
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(&answer).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot print").map_err(Failure::from)
        }
        _ => {
            if answer.starts_with(b"{") || answer.starts_with(b"[") {
                out.raw("\n");
            }
            Ok(())
        }
    }
}

/// The body that was asked for.
fn data(text: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    if text == "-" {
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else if let Some(file) = text.strip_prefix('@') {
        bytes = volary_host::read(file.as_ref())?;
    } else {
        bytes = text.as_bytes().to_vec();
    }
    Ok(bytes)
}
