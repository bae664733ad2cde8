//! A service that writes down what it is told. It can go away and come back at the same address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// Status and body of an answer.
pub type Answer = (u16, String);

type Rule = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// The service.
pub struct Recorder {
    port: u16,
    rule: Rule,
    told: Arc<Mutex<Vec<Request>>>,
    life: Option<Life>,
}

/// One life of it, between its start and its death.
struct Life {
    over: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Recorder {
    /// A service that answers by a rule.
    pub fn start(rule: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let mut recorder = Self { port: 0, rule: Arc::new(rule), told: Arc::default(), life: None };
        recorder.come_back();
        recorder
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn told(&self) -> Vec<Request> {
        self.told.lock().unwrap().clone()
    }

    /// Ends it, with all its connections.
    pub fn go_away(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        life.thread.join().unwrap();
        for stream in life.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Starts it again.
    pub fn come_back(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        self.port = listener.local_addr().unwrap().port();
        let (over, streams) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (rule, told) = (self.rule.clone(), self.told.clone());
        let (ended, kept) = (over.clone(), streams.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                let (rule, told) = (rule.clone(), told.clone());
                std::thread::spawn(move || serve(&stream, &rule, &told));
            }
        });
        self.life = Some(Life { over, streams, thread });
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// Answers requests on one connection until it ends.
fn serve(stream: &TcpStream, rule: &Rule, told: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let (status, body) = rule(&request);
        told.lock().unwrap().push(request);
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = stream;
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).ok().filter(|read| *read > 0)?;
        Some(text.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let text = line()?;
        let Some((name, value)) = text.split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line: first, headers, body })
}
