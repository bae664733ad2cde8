//! What one change of the archive costs a device: bytes of `apt-get update`, counted at the
//! socket, with the unmodified apt of Debian 12 and 13.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, ensure};
use volary_testkit::wire::{Proxy, WebFolder};
use volary_testkit::{AptClient, Debian, Lab};

use super::{Bench, Ours, Peer, Peers, Set, median};

/// The goal of the issue: four thousand bytes.
const MOST_BYTES: f64 = 4000.0;

/// A client with the way to one archive.
struct Link {
    client: AptClient,
    proxy: Proxy,
    /// Kept for as long as it is asked.
    _web: Option<WebFolder>,
}

/// Where an archive is served.
enum Place<'a> {
    /// A folder, by a plain web server.
    Folder(&'a Path),
    /// Our server, which speaks TLS.
    Server(SocketAddr),
}

impl Link {
    fn open(lab: &Lab, client: AptClient, place: &Place<'_>) -> anyhow::Result<Self> {
        let (to, scheme, path, web) = match place {
            Place::Folder(folder) => {
                let web = WebFolder::start(Ipv4Addr::LOCALHOST, folder)?;
                (web.address(), "http", "", Some(web))
            }
            Place::Server(address) => (*address, "https", "/archive", None),
        };
        let proxy = Proxy::start(lab.host_address(), to)?;
        let uri = format!("{scheme}://{}:{}{path}", lab.host_address(), proxy.port());
        client.source(&uri, "rolling", "main")?;
        let link = Self { client, proxy, _web: web };
        link.update()?;
        Ok(link)
    }

    /// Bytes that an update receives, headers and all.
    fn update(&self) -> anyhow::Result<f64> {
        self.proxy.take();
        let run = self.client.update()?;
        ensure!(run.complaint().is_none(), "apt complains: {}", run.said);
        let traffic = self.proxy.take();
        Ok(traffic.down as f64)
    }

    /// Bytes of an update after which `package` must be there in `version`.
    fn update_to(&self, package: &str, version: &str) -> anyhow::Result<f64> {
        let bytes = self.update()?;
        let found = self.client.candidate(package)?;
        ensure!(found.as_deref() == Some(version), "apt sees {found:?} of {package}, not {version}");
        Ok(bytes)
    }
}

/// Publishes one package after the other; after each every client updates.
pub fn measure(bench: &Bench<'_>, ours: &Ours, peers: &mut Peers, set: &Set) -> anyhow::Result<()> {
    let lab = ours.chain().lab();
    let public = ours.public();
    let key = volary_host::read(&public.join("archive.asc"))?;
    let foreign = peers.aptly.key()?;
    let fleet = ours.chain().clone_of("fleet")?;
    let authority = volary_host::read(&fleet.dir().join(".volary/ca.pem"))?;
    let server: SocketAddr =
        ours.chain().url().trim_start_matches("https://").parse().context("the server's address")?;
    let (aptly, reprepro) = (peers.aptly.public(), peers.reprepro.public());
    for (debian, turn, apt) in [(Debian::Bookworm, 3, "apt 2.6"), (Debian::Trixie, 4, "apt 3.0")] {
        let open = |name: &str, place, key: &[u8]| {
            let client = AptClient::new(lab, &bench.cache, debian, &format!("{name}-{}", debian.codename()))?;
            client.trust(key, Some(&authority))?;
            Link::open(lab, client, &place)
        };
        let links = [
            open("ours", Place::Folder(&public), &key)?,
            open("tls", Place::Server(server), &key)?,
            open("aptly", Place::Folder(&aptly), &foreign)?,
            open("reprepro", Place::Folder(&reprepro), &foreign)?,
        ];
        let mut bytes: [Vec<f64>; 4] = Default::default();
        for (deb, file) in set.newer(bench.folder.path(), turn, 5)? {
            ours.include(&file)?;
            peers.aptly.publish(&file)?;
            peers.reprepro.publish(&file)?;
            // apt asks with a resolution of a second, and the peers' files carry the clock's time.
            std::thread::sleep(std::time::Duration::from_millis(1100));
            for (link, bytes) in links.iter().zip(&mut bytes) {
                bytes.push(link.update_to(&deb.name(), &deb.version())?);
            }
        }
        let [plain, tls, aptly, reprepro] = bytes.map(|bytes| median(&bytes));
        let name = format!("archive-update-{}", debian.codename());
        let meaning = format!(
            "bytes that apt-get update receives, headers included, after one of {} packages changed, {apt}, plain HTTP; the peer \
             is the lighter of aptly and reprepro",
            set.count
        );
        for (name, meaning, value) in [
            (name.clone(), meaning.as_str(), plain),
            (format!("{name}-tls"), "the same from the server itself, TLS handshake and all", tls),
        ] {
            let figure = bench.figure(&name, meaning, (value, "B"), MOST_BYTES)?;
            figure.beside((aptly.min(reprepro), "B")).publish(bench.workspace)?;
        }
    }
    Ok(())
}
