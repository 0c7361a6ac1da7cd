//! The metadata of a directory entry: a JSON object whose foreign keys are kept.

use serde_json::{Map, Value};

/// The metadata of a directory entry (PROTOCOL 7).
///
/// Keys keep their order and numbers their spelling, so that what is not ours survives a change of what is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub Map<String, Value>);

/// The metadata is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata is not a JSON object")]
pub struct NotAnObject;

impl Metadata {
    /// Parses a JSON object.
    pub fn parse(json: &[u8]) -> Result<Metadata, NotAnObject> {
        serde_json::from_slice(json).map(Metadata).map_err(|_| NotAnObject)
    }

    /// Writes JSON as Python's `json.dumps` does: `", "` and `": "`, everything beyond ASCII escaped.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_object(&mut out, &self.0);
        out
    }

    /// The metadata that a link gets at `now` (seconds): `given` replaces all of `self`, the old one, but its `tahoe`
    /// dictionary, in which `linkmotime` becomes now and `linkcrtime` stays or begins (PROTOCOL 7).
    pub fn updated(&self, given: Option<&Metadata>, now: f64) -> Metadata {
        let mut map = given.unwrap_or(self).0.clone();
        map.shift_remove("tahoe");
        let mut tahoe = match self.0.get("tahoe") {
            Some(Value::Object(tahoe)) => tahoe.clone(),
            _ => Map::new(),
        };
        if !tahoe.contains_key("linkcrtime") {
            let began = self.0.get("ctime").cloned().unwrap_or_else(|| float(now));
            tahoe.insert("linkcrtime".into(), began);
        }
        tahoe.insert("linkmotime".into(), float(now));
        map.insert("tahoe".into(), Value::Object(tahoe));
        Metadata(map)
    }

    /// The keys whose values must be set or removed to turn `self` into `wanted`; `tahoe` is not ours to set.
    pub fn difference(&self, wanted: &Metadata) -> Vec<(String, Option<Value>)> {
        let changed = wanted.0.iter().filter(|(key, value)| self.0.get(*key) != Some(value));
        let gone = self.0.keys().filter(|key| !wanted.0.contains_key(*key));
        let keys =
            changed.map(|(key, value)| (key.clone(), Some(value.clone()))).chain(gone.map(|key| (key.clone(), None)));
        keys.filter(|(key, _)| key != "tahoe").collect()
    }

    /// When the link was last changed, in seconds, as the `tahoe` dictionary says.
    pub fn link_modified(&self) -> Option<f64> {
        self.0.get("tahoe")?.get("linkmotime")?.as_f64()
    }
}

/// A float as Python prints it: the shortest digits that read back, with `.0` or an exponent.
pub fn float(value: f64) -> Value {
    let text = python_float(value);
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

fn python_float(value: f64) -> String {
    if value == 0.0 {
        return if value.is_sign_negative() { "-0.0".into() } else { "0.0".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        if plain.contains('.') { plain } else { format!("{plain}.0") }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

fn write_object(out: &mut Vec<u8>, map: &Map<String, Value>) {
    out.push(b'{');
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        write_string(out, key);
        out.extend_from_slice(b": ");
        write_value(out, value);
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::String(s) => write_string(out, s),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                write_value(out, item);
            }
            out.push(b']');
        }
        Value::Object(map) => write_object(out, map),
    }
}

fn write_string(out: &mut Vec<u8>, s: &str) {
    out.push(b'"');
    for c in s.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            ' '..='\u{7e}' => out.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
    }
    out.push(b'"');
}
