//! A server and a person's desk, through the real `volary` program only.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;
use volary_host::{Cmd, Output};

/// A server that runs in a folder that goes at the end.
pub struct Desk {
    root: tempfile::TempDir,
    server: Option<Child>,
}

impl Desk {
    /// Makes a server and starts it.
    pub fn new() -> Self {
        let mut desk = Self { root: tempfile::tempdir().unwrap(), server: None };
        // Somebody else may take it until the server does; then the start says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = desk.folder().display().to_string();
        desk.ok(&["init", &folder, "--host", "localhost", "--port", &port.to_string()]);
        desk.start();
        desk
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// The server's folder.
    pub fn folder(&self) -> PathBuf {
        self.root.path().join("server")
    }

    /// The clone of the fleet repository.
    pub fn fleet(&self) -> PathBuf {
        self.root.path().join("fleet")
    }

    fn cmd(&self, program: &str) -> Cmd {
        Cmd::new(program)
            .env("HOME", self.root.path())
            .env("VOLARY_CONFIG", self.folder().join("client.toml"))
            .env("NO_COLOR", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_NAME", "Op")
            .env("GIT_AUTHOR_EMAIL", "op@example.com")
            .env("GIT_COMMITTER_NAME", "Op")
            .env("GIT_COMMITTER_EMAIL", "op@example.com")
            .env_remove("GIT_SSL_CAINFO")
    }

    /// Starts the server, and waits until it says that it answers.
    pub fn start(&mut self) {
        let command = self.cmd(env!("CARGO_BIN_EXE_volary")).args(["--json", "serve"]).arg(self.folder());
        let mut command = command.into_std();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains('{'), "the server did not start: {line}");
        self.server = Some(child);
    }

    /// Kills the server as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Runs `volary` in a folder.
    pub fn run_in(&self, dir: &Path, args: &[&str]) -> Output {
        self.cmd(env!("CARGO_BIN_EXE_volary")).args(args).cwd(dir).run().unwrap()
    }

    /// Runs `volary`, which must succeed; returns what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.ok_in(self.root.path(), args)
    }

    #[track_caller]
    pub fn ok_in(&self, dir: &Path, args: &[&str]) -> String {
        let output = self.run_in(dir, args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "volary {}: {errors}", args.join(" "));
        output.text()
    }

    /// Runs `volary --json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// Runs `volary`, which must fail; returns the exit status and what it said.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run_in(self.root.path(), args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "volary {} succeeded: {}", args.join(" "), output.text());
        (output.status.code().unwrap(), errors)
    }

    /// Runs a script of the shell with `volary` at hand.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_volary"));
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", program.parent().unwrap().display());
        self.cmd("bash")
            .args(["-euo", "pipefail", "-c", script])
            .env("PATH", path)
            .cwd(self.path())
            .check()
            .unwrap()
            .text()
    }

    /// The server's address.
    pub fn url(&self) -> String {
        let text = volary_host::read_to_string(&self.folder().join("client.toml")).unwrap();
        let config: toml::Table = toml::from_str(&text).unwrap();
        config["server"].as_str().unwrap().to_owned()
    }

    /// Runs git in the clone of the fleet repository.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        self.cmd("git").cwd(self.fleet()).args(args).check().unwrap().text().trim().to_owned()
    }

    /// Runs git there, however it ends.
    pub fn try_git(&self, args: &[&str]) -> Output {
        self.cmd("git").cwd(self.fleet()).args(args).run().unwrap()
    }

    /// Makes a small package; `more` are further control fields, each line ended.
    pub fn deb(&self, name: &str, version: &str, more: &str) -> String {
        let tree = self.path().join(format!("{name}-{version}"));
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let doc = tree.join(format!("usr/share/doc/{name}"));
        std::fs::create_dir_all(&doc).unwrap();
        let changelog = format!(
            "{name} ({version}) unstable; urgency=low\n\n  * Bring {version}.\n\n \
             -- A B <a@example.com>  Sun, 22 Nov 2026 10:00:00 +0000\n"
        );
        let gzip = Cmd::new("gzip").args(["-9n", "-c"]).stdin(changelog).check().unwrap().stdout;
        volary_host::write_atomic(&doc.join("changelog.gz"), &gzip, 0o644).unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: A B <a@example.com>\n\
             Installed-Size: 12\n{more}Description: test\n"
        );
        volary_host::write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
        let deb = self.path().join(format!("{name}_{version}_all.deb"));
        Cmd::new("dpkg-deb").args(["--root-owner-group", "-b"]).args([&tree, &deb]).check().unwrap();
        deb.display().to_string()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.kill();
    }
}
