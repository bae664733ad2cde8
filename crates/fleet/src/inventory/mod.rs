//! Ansible inventories, read without Ansible.
mod compose;
mod construct;
mod document;
mod integer;
mod hosts;
mod json;
mod literal;
mod literal_text;
mod python;
mod words;
mod scalar;
mod value;
pub use value::{Map, Value};
pub use json::to_json;
/// scratch
pub mod debug { 
    use super::value::Value;
    pub fn typed(v: &Value) -> String {
        let q = |s: &str| super::to_json(&Value::text(s)).replace('\u{7f}', "\u{7f}");
        match v {
            Value::Null | Value::Bool(_) | Value::Text(_) => super::to_json(v),
            Value::Int(i) => format!("i{i}"),
            Value::Float(f) if f.is_nan() => "fnan".into(),
            Value::Float(f) if f.is_infinite() => if *f > 0.0 {"finf".into()} else {"f-inf".into()},
            Value::Float(_) => format!("f{}", super::to_json(v)),
            Value::Unsafe(s) => format!("unsafe{}", q(s)),
            Value::Vault(s) => format!("vault{}", q(s)),
            Value::Bytes(b) => format!("y{}", b.iter().map(|b| format!("{b:02x}")).collect::<String>()),
            Value::Time(s) => format!("d{s}"),
            Value::List(l) => format!("[{}]", l.iter().map(typed).collect::<Vec<_>>().join(",")),
            Value::Set(l) => { let mut l: Vec<_> = l.iter().map(typed).collect(); l.sort(); format!("S[{}]", l.join(",")) }
            Value::Map(m) => format!("{{{}}}", m.iter().map(|(k, v)| format!("{}:{}", match k { Value::Unsafe(s) => q(s), k => typed(k)}, typed(v))).collect::<Vec<_>>().join(",")),
        }
    }
pub fn literal(t: &str) -> String { match super::literal::parse(t) { Ok(v) => typed(&v), Err(e) => format!("ERR {e:?}") } }
pub fn words(t: &str) -> String { match super::words::split(t) { Ok(v) => format!("{v:?}"), Err(e) => format!("ERR {e:?}") } }
pub fn hosts(t: &str) -> String { match super::hosts::expand(t) { Ok((v, p)) => format!("{} {p:?}", v.join(" ")), Err(e) => format!("ERR {e:?}") } }
pub fn yaml(bytes: &[u8]) -> String { match super::document::load(bytes) { Ok(d) => typed(&d.value), Err(e) => format!("ERR {e:?}") } }
}
