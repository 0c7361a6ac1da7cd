//! The metadata of a directory entry: a JSON object whose foreign keys are kept.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Begins what Python writes and JSON cannot say: alone in a string a number that is not finite, before a character of
/// [`LONE_SURROGATES`] half of a surrogate pair. The last character of private use.
const BEYOND_JSON: char = '\u{10fffd}';

/// Stands for a surrogate without its other half: so many characters on.
const LONE_SURROGATES: u32 = 0x10_0000;

/// Numbers that Python writes and JSON does not know.
const NOT_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The metadata of a directory entry (PROTOCOL 7).
///
/// Keys keep their order and numbers their spelling, so that what is not ours survives a change of what is. So do NaN,
/// infinities and lone surrogates, which Python reads and writes: they are strings and characters of their own here.
/// A clone shares the object until one of the two is changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Arc<Map<String, Value>>);

/// The metadata is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata is not a JSON object")]
pub struct NotAnObject;

impl From<Map<String, Value>> for Metadata {
    fn from(map: Map<String, Value>) -> Metadata {
        Metadata(Arc::new(map))
    }
}

impl Metadata {
    /// The object.
    pub fn map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The object, to be changed.
    pub fn map_mut(&mut self) -> &mut Map<String, Value> {
        Arc::make_mut(&mut self.0)
    }

    /// Parses a JSON object.
    pub fn parse(json: &[u8]) -> Result<Metadata, NotAnObject> {
        let parsed = serde_json::from_slice(json).or_else(|error| match std::str::from_utf8(json).map(into_json) {
            Ok(Cow::Owned(text)) => serde_json::from_str(&text),
            _ => Err(error),
        });
        parsed.map(Map::into).map_err(|_| NotAnObject)
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
        let mut map = given.unwrap_or(self).map().clone();
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
        map.into()
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

/// What Python takes for JSON as JSON.
fn into_json(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    let mut in_string = false;
    while let Some(next) = text.as_bytes().get(at) {
        let rest = &text.as_bytes()[at..];
        let (length, instead) = match next {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => match (utf16_escape(rest), rest.get(6..).and_then(utf16_escape)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, None),
                (Some(unit @ 0xd800..=0xdfff), _) => (6, char::from_u32(LONE_SURROGATES + u32::from(unit))),
                _ => (2, None),
            },
            _ if !in_string => match NOT_FINITE.iter().find(|name| is_value(rest, name)) {
                Some(name) => {
                    out.extend([&text[copied..at], "\"", BEYOND_JSON.encode_utf8(&mut [0; 4]), name, "\""]);
                    copied = at + name.len();
                    (name.len(), None)
                }
                None => (1, None),
            },
            _ => (1, None),
        };
        if let Some(instead) = instead {
            out.push_str(&text[copied..at]);
            out.extend([BEYOND_JSON, instead]);
            copied = at + length;
        }
        at += length;
    }
    if copied == 0 {
        return text.into();
    }
    out.push_str(&text[copied..]);
    out.into()
}

/// Whether text begins with this value, which is no key.
fn is_value(rest: &[u8], name: &str) -> bool {
    let after = rest.strip_prefix(name.as_bytes()).map(<[u8]>::trim_ascii_start);
    after.is_some_and(|after| after.first() != Some(&b':'))
}

/// The unit of an escape such as `\ud83d`, if bytes begin with one.
fn utf16_escape(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let value = |digit: &u8| (*digit as char).to_digit(16);
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | value(digit)?)).map(|unit| unit as u16)
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
        Value::String(s) => match s.strip_prefix(BEYOND_JSON).filter(|name| NOT_FINITE.contains(name)) {
            Some(name) => out.extend_from_slice(name.as_bytes()),
            None => write_string(out, s),
        },
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
    let mut chars = s.chars().peekable();
    while let Some(c) = chars.next() {
        let lone = |next: &char| matches!(*next as u32, 0x10_d800..=0x10_dfff);
        match c {
            BEYOND_JSON if chars.peek().is_some_and(lone) => {
                let unit = chars.next().map_or(0, |next| next as u32 - LONE_SURROGATES);
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
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
