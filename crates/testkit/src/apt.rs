//! Real apt of Debian 12 or 13 as a client of an archive, with nothing of this machine's.

use std::time::Duration;

use volary_host::Output;

use crate::{Cache, Debian, Lab, LabError, Sandbox, roots};

/// How apt's lines begin that a person would worry about.
const COMPLAINTS: [&str; 7] = ["W:", "E:", "N:", "Err:", "Warning:", "Error:", "Notice:"];

/// How long one run of apt may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// An apt that knows one archive.
#[derive(Debug)]
pub struct AptClient {
    sandbox: Sandbox,
    debian: Debian,
}

/// What a run of apt said.
#[derive(Debug, Clone)]
pub struct AptRun {
    /// True if its exit status was 0.
    pub succeeded: bool,
    /// Everything.
    pub said: String,
}

impl AptRun {
    fn new(output: &Output) -> Self {
        let said = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
        Self { succeeded: output.status.success(), said }
    }

    /// The first thing that is not as it should be: apt exits with 0 on many failures, and only
    /// says so.
    pub fn complaint(&self) -> Option<String> {
        let mut lines = self.said.lines();
        let line = lines.find(|line| COMPLAINTS.iter().any(|start| line.starts_with(start)));
        match line {
            // Why stands in the lines after it, indented.
            Some(line) => {
                let reason = lines.take_while(|line| line.starts_with(' ')).map(str::trim);
                Some(std::iter::once(line).chain(reason).collect::<Vec<_>>().join(" "))
            }
            None if !self.succeeded => Some(format!("it failed: {}", self.said.trim())),
            None => None,
        }
    }
}

impl AptClient {
    /// A client in a root of its own; `name` is unique in the lab.
    ///
    /// # Errors
    /// That the root cannot be made.
    pub fn new(lab: &Lab, cache: &Cache, debian: Debian, name: &str) -> Result<Self, LabError> {
        let root = roots::apt_root(cache, debian, &mut |_| {})?;
        Ok(Self { sandbox: Sandbox::new(lab, name, &root)?, debian })
    }

    /// Which Debian it is of.
    pub fn debian(&self) -> Debian {
        self.debian
    }

    /// Lets it believe the archive's key, and the authority of an `https` server.
    ///
    /// # Errors
    /// That the files cannot be written.
    pub fn trust(&self, key: &[u8], authority: Option<&[u8]>) -> Result<(), LabError> {
        self.sandbox.write("/etc/apt/keyrings/test.asc", key)?;
        if let Some(authority) = authority {
            self.sandbox.write("/etc/test-ca.pem", authority)?;
            let option = b"Acquire::https::CAInfo \"/etc/test-ca.pem\";\n";
            self.sandbox.write("/etc/apt/apt.conf.d/90test", option)?;
        }
        Ok(())
    }

    /// Makes one suite of one archive its only source.
    ///
    /// # Errors
    /// That the file cannot be written.
    pub fn source(&self, uri: &str, suite: &str, components: &str) -> Result<(), LabError> {
        let text = format!(
            "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\nArchitectures: amd64\n\
             Signed-By: /etc/apt/keyrings/test.asc\n"
        );
        self.sandbox.write("/etc/apt/sources.list.d/test.sources", text.as_bytes())
    }

    /// `apt-get update`.
    ///
    /// # Errors
    /// That it cannot be run; what it says of the archive is no error here.
    pub fn update(&self) -> Result<AptRun, LabError> {
        self.run(&["apt-get", "update"])
    }

    /// Any program of its root.
    ///
    /// # Errors
    /// That it cannot be run.
    pub fn run(&self, args: &[&str]) -> Result<AptRun, LabError> {
        Ok(AptRun::new(&self.sandbox.command(args).timeout(PATIENCE).run()?))
    }

    /// The version that it would install.
    ///
    /// # Errors
    /// That it cannot be run.
    pub fn candidate(&self, package: &str) -> Result<Option<String>, LabError> {
        let said = self.run(&["apt-cache", "policy", package])?.said;
        let line = said.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(line.filter(|version| *version != "(none)").map(str::to_owned))
    }
}
