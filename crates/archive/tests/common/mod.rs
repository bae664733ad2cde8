//! Small packages made by dpkg-deb, an archive in a temporary folder, and apt with a private
//! state. Shared by the tests of the archive.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod audit;

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use volary_archive::{Archive, Error, Included, Provenance, Settings, UploadPolicy};
use volary_host::Cmd;

/// An archive with its folder, gone at the end.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub archive: Archive,
}

pub fn now() -> Timestamp {
    volary_host::now()
}

pub fn settings() -> Settings {
    Settings::new("Test", "Test archive", vec!["amd64".parse().unwrap(), "arm64".parse().unwrap()])
}

impl Lab {
    pub fn new() -> Self {
        Self::with(&settings())
    }

    pub fn with(settings: &Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::create(&dir.path().join("archive"), settings, now()).unwrap();
        Self { dir, archive }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    /// Makes a package and includes it.
    pub fn add(&self, name: &str, version: &str, architecture: &str, more: &str) -> Included {
        let deb = self.deb(name, version, architecture, more);
        self.include(&[deb]).unwrap()
    }

    pub fn include(&self, files: &[PathBuf]) -> Result<Included, Error> {
        self.archive.include(files, &Provenance::default(), &UploadPolicy::Refuse, now())
    }

    pub fn deb(&self, name: &str, version: &str, architecture: &str, more: &str) -> PathBuf {
        deb(self.dir.path(), name, version, architecture, more)
    }

    /// The versions of rolling or a revision as `name version architecture` lines.
    pub fn list(&self, suite: &str) -> Vec<String> {
        let packages = self.archive.packages(&suite.parse().unwrap()).unwrap();
        packages.iter().map(ToString::to_string).collect()
    }
}

/// Makes a small package; `more` are further control fields, each line ended.
pub fn deb(dir: &Path, name: &str, version: &str, architecture: &str, more: &str) -> PathBuf {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let tree = dir.join(format!("tree-{}-{number}", std::process::id()));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join(format!("usr/share/doc/{name}"))).unwrap();
    let file_version = version.replace(':', "%3a");
    let deb = dir.join(format!("{name}_{file_version}_{architecture}_{number}.deb"));
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: A B <a@example.com>\n\
         {more}Description: test package {name}\n It does nothing.\n"
    );
    volary_host::write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let text = format!("{name} {version}\n");
    volary_host::write_atomic(&tree.join(format!("usr/share/doc/{name}/README")), text.as_bytes(), 0o644)
        .unwrap();
    Cmd::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).args([&tree, &deb]).check().unwrap();
    fs::remove_dir_all(tree).unwrap();
    deb
}

/// A real apt that knows one suite and nothing of the machine. With `ARCHIVE_TEST_APT_ROOT` it is
/// the apt of the Debian that lies in that folder, such as a newer one.
pub struct Apt {
    dir: tempfile::TempDir,
    root: Option<PathBuf>,
}

/// Makes the folders that an apt with a root of its own wants.
pub fn make_apt_folders(root: &Path) {
    for below in [
        "etc/sources.list.d",
        "etc/preferences.d",
        "etc/apt.conf.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
}

impl Apt {
    pub fn new(uri: &str, suite: &str, key: impl AsRef<str>) -> Self {
        Self::with(uri, suite, key, "")
    }

    pub fn with(uri: &str, suite: &str, key: impl AsRef<str>, more: &str) -> Self {
        let root = std::env::var_os("ARCHIVE_TEST_APT_ROOT").map(PathBuf::from);
        let dir = match &root {
            None => tempfile::tempdir().unwrap(),
            Some(root) => tempfile::tempdir_in(root.join("tmp")).unwrap(),
        };
        let apt = Self { dir, root };
        let dir = &apt.dir;
        make_apt_folders(dir.path());
        let write = |name: &str, text: &str| {
            volary_host::write_atomic(&dir.path().join(name), text.as_bytes(), 0o644).unwrap();
        };
        write("key.asc", key.as_ref());
        write("status", "");
        apt.source(uri, suite, more);
        apt
    }

    fn source(&self, uri: &str, suite: &str, more: &str) {
        let key = self.inside().join("key.asc");
        let source = format!(
            "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {}\n{more}",
            key.display()
        );
        let path = self.dir.path().join("etc/sources.list.d/test.sources");
        volary_host::write_atomic(&path, source.as_bytes(), 0o644).unwrap();
    }

    /// Takes other keys in place of those that it had.
    pub fn trust(&self, key: &str) {
        volary_host::write_atomic(&self.dir.path().join("key.asc"), key.as_bytes(), 0o644).unwrap();
    }

    /// Goes to another suite, as a device does whose lock file names another release.
    pub fn follow(&self, uri: &str, suite: &str) {
        self.source(uri, suite, "");
    }

    /// Whether this apt is older than a version.
    pub fn is_before(&self, major: u32, minor: u32) -> bool {
        let text = self.run("apt-get", &["--version"]).text();
        let version = text.split_whitespace().nth(1).unwrap();
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
        (parts.next().unwrap(), parts.next().unwrap()) < (major, minor)
    }

    /// Changes the source that apt knows.
    pub fn sources(&self, from: &str, to: &str) {
        let path = self.dir.path().join("etc/sources.list.d/test.sources");
        let text = volary_host::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        volary_host::write_atomic(&path, text.replace(from, to).as_bytes(), 0o644).unwrap();
    }

    /// The private folder, in which apt runs.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The private folder as apt sees it.
    fn inside(&self) -> PathBuf {
        let Some(root) = &self.root else { return self.dir.path().to_owned() };
        Path::new("/").join(self.dir.path().strip_prefix(root).unwrap())
    }

    /// Runs an apt program with the private state.
    pub fn run(&self, program: &str, args: &[&str]) -> volary_host::Output {
        let inside = self.inside();
        let dir = inside.display();
        let options = [
            format!("Dir::Etc={dir}/etc"),
            format!("Dir::State={dir}/state"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}/cache"),
            "Dir::Etc::Trusted=/nowhere".to_owned(),
            "Dir::Etc::TrustedParts=/nowhere".to_owned(),
            // The private folders are not readable for the user _apt.
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures::=amd64".to_owned(),
        ];
        let mut command = match &self.root {
            None => Cmd::new(program).cwd(self.dir.path()),
            Some(root) => Cmd::new("chroot")
                .arg(root)
                .args(["sh", "-c", "cd \"$0\" && exec \"$@\""])
                .arg(&inside)
                .arg(program),
        };
        command = command.env("LC_ALL", "C.UTF-8");
        for option in options {
            command = command.arg("-o").arg(option);
        }
        command.args(args).run().unwrap()
    }

    /// Updates; there must be neither an error nor a warning nor a notice.
    pub fn update(&self) -> String {
        let output = self.run("apt-get", &["update"]);
        let text = output.text() + &String::from_utf8_lossy(&output.stderr);
        let bad = text
            .lines()
            .find(|line| line.starts_with("W:") || line.starts_with("E:") || line.starts_with("N:"));
        assert!(output.status.success() && bad.is_none(), "{text}");
        text
    }

    /// Updates, which must succeed, and gives what apt complained of.
    pub fn complaints(&self) -> String {
        let output = self.run("apt-get", &["update"]);
        let said = output.text() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("E:"), "{said}");
        said.lines().filter(|line| line.starts_with("W:") || line.starts_with("N:")).collect()
    }

    /// The version that apt would install.
    pub fn candidate(&self, package: &str) -> String {
        let text = self.run("apt-cache", &["policy", package]).text();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        line.unwrap_or("nothing").to_owned()
    }

    /// Downloads a package and returns its bytes.
    pub fn download(&self, package: &str) -> Vec<u8> {
        let output = self.run("apt-get", &["download", package]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let find = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let deb = find.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb")).unwrap();
        let bytes = volary_host::read(&deb).unwrap();
        fs::remove_file(deb).unwrap();
        bytes
    }
}

/// A web server for a folder on the loopback interface, ended with this value.
pub struct Http {
    child: std::process::Child,
    log: tempfile::NamedTempFile,
    pub uri: String,
}

impl Http {
    pub fn new(dir: &Path) -> Self {
        use std::io::{BufRead, BufReader};
        use std::process::Stdio;
        let script = "import http.server,functools,sys\n\
            class L(http.server.SimpleHTTPRequestHandler):\n\
            \x20   def log_message(self,f,*a): print(f%a,file=sys.stderr,flush=True)\n\
            H=functools.partial(L,directory=sys.argv[1])\n\
            s=http.server.ThreadingHTTPServer(('127.0.0.1',0),H)\n\
            print(s.server_address[1],flush=True)\ns.serve_forever()";
        let mut command = Cmd::new("python3").args(["-c", script]).arg(dir).into_std();
        let log = tempfile::NamedTempFile::new().unwrap();
        let errors = log.as_file().try_clone().unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, log, uri: format!("http://127.0.0.1:{}/", port.trim()) }
    }
}

impl Http {
    /// The requests since the last time, as `"GET /path HTTP/1.1" 200 -`.
    pub fn requests(&self) -> Vec<String> {
        let text = volary_host::read_to_string(self.log.path()).unwrap();
        self.log.as_file().set_len(0).unwrap();
        text.lines().map(|line| line.trim_start_matches('\0').to_owned()).collect()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
