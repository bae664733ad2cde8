//! Looks up the name of a server when a connection to it is made, and only then.
//!
//! ureq does so before each request, on a thread of its own, also where a connection stands: a poll would
//! cost a question to the name server, its answer, and three more times that the device wakes up.

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};

/// Stands where ureq wants an address before it knows whether it needs one: that of nobody.
#[derive(Debug)]
pub struct Later;

impl Resolver for Later {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut nobody = self.empty();
        nobody.push(([0, 0, 0, 0], 0).into());
        Ok(nobody)
    }
}

/// Makes connections as ureq does, to what the name means at that time.
#[derive(Debug)]
pub struct LookedUp<R> {
    resolver: R,
    connector: DefaultConnector,
}

impl Default for LookedUp<DefaultResolver> {
    fn default() -> Self {
        Self::by(DefaultResolver::default())
    }
}

impl<R> LookedUp<R> {
    fn by(resolver: R) -> Self {
        Self { resolver, connector: DefaultConnector::new() }
    }
}

impl<R: Resolver> Connector for LookedUp<R> {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let details = ConnectionDetails {
            addrs: self.resolver.resolve(details.uri, details.config, details.timeout)?,
            uri: details.uri,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.connector.connect(&details, chained)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Knows one name, and how often it was asked.
    #[derive(Debug, Clone)]
    struct Book {
        address: SocketAddr,
        asked: Arc<AtomicUsize>,
    }

    impl Resolver for Book {
        fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
            assert_eq!(uri.host(), Some("volary.test"));
            self.asked.fetch_add(1, Ordering::SeqCst);
            let mut found = self.empty();
            found.push(self.address);
            Ok(found)
        }
    }

    /// Answers `each` requests on a connection, then ends it.
    fn serve(listener: &TcpListener, each: usize) {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            for _ in 0..each {
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
        }
    }

    #[test]
    fn a_name_is_looked_up_once_for_each_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let book = Book { address: listener.local_addr().unwrap(), asked: Arc::default() };
        std::thread::spawn(move || serve(&listener, 3));
        let config = ureq::Agent::config_builder().proxy(None).build();
        let agent = ureq::Agent::with_parts(config, LookedUp::by(book.clone()), Later);
        for (request, asked) in [1, 1, 1, 2, 2, 2, 3].into_iter().enumerate() {
            let mut answer = agent.get("http://volary.test/").call().unwrap();
            assert_eq!(answer.body_mut().read_to_string().unwrap(), "ok");
            assert_eq!(book.asked.load(Ordering::SeqCst), asked, "request {request}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        let config = ureq::Agent::config_builder().proxy(None).build();
        let agent = ureq::Agent::with_parts(config, LookedUp::default(), Later);
        assert!(agent.get("http://volary.invalid/").call().is_err());
    }
}
