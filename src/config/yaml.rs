//! YAML as strangers write it: any shape, within budgets.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use zeroize::Zeroizing;

/// Nodes of one document: some thousand announcements.
const NODE_LIMIT: usize = 200_000;
/// Nodes that aliases may repeat.
const ALIAS_LIMIT: usize = 10_000;
/// How deep lists and mappings may stand in each other.
const DEPTH_LIMIT: usize = 32;

/// A value. Sets are mappings to nothing.
#[derive(Clone, PartialEq)]
pub(super) enum Yaml {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// Texts, and bytes (`!!binary`) in base64 as they stand in the file. Some are secrets.
    Text(Zeroizing<String>),
    Seq(Vec<Yaml>),
    /// In the order of the file; of equal keys the last counts.
    Map(Vec<(Yaml, Yaml)>),
}

impl Yaml {
    /// Reads a document.
    ///
    /// # Errors
    /// It is no YAML or exceeds the budgets: the line, where there is one.
    pub fn parse(text: &str) -> Result<Yaml, Option<usize>> {
        let budget = serde_saphyr::budget! {
            max_depth: DEPTH_LIMIT,
            flow_nesting_limit: DEPTH_LIMIT,
            max_nodes: NODE_LIMIT,
            max_events: 4 * NODE_LIMIT,
            max_documents: 1,
            max_anchors: ALIAS_LIMIT,
            max_aliases: ALIAS_LIMIT,
            max_recorded_anchor_events: NODE_LIMIT,
            max_total_scalar_bytes: 16 << 20,
        };
        let limits = serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_LIMIT, max_replay_stack_depth: 8 };
        let options = serde_saphyr::options! {
            budget: budget,
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            merge_keys: MergeKeyPolicy::AsOrdinary,
            alias_limits: limits,
            ignore_binary_tag_for_string: true,
            non_finite_float_policy: NonFiniteFloatPolicy::AsString,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(text, options)
            .map_err(|e| e.location().and_then(|at| usize::try_from(at.line()).ok()))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        let Yaml::Map(entries) = self else { return None };
        entries.iter().rfind(|(k, _)| k.text() == Some(key)).map(|(_, value)| value)
    }

    /// The text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Yaml::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members of a list or of a set.
    pub fn members(&self) -> Vec<&Yaml> {
        match self {
            Yaml::Seq(items) => items.iter().collect(),
            Yaml::Map(entries) => entries.iter().map(|(key, _)| key).collect(),
            _ => Vec::new(),
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Yaml, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(Yaml::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Yaml, E> {
        Ok(Yaml::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Yaml, E> {
        Ok(i128::try_from(value).map_or(Yaml::Float(value as f64), Yaml::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(Zeroizing::new(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Yaml, E> {
        Ok(Yaml::Text(Zeroizing::new(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        // Nothing is set aside for what a length may promise: the list grows with what is there.
        let mut out = Vec::new();
        while let Some(item) = items.next_element()? {
            out.push(item);
        }
        Ok(Yaml::Seq(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut out = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            out.push(entry);
        }
        Ok(Yaml::Map(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Yaml {
        Yaml::Text(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn every_shape_is_taken() {
        let yaml = "a: !!set {x, ? w}\nb: !!binary eHl6\nc: [1, 2.5, null, true, '1', -3]\nd: {1: 2}\na2: &n [z]\ne: *n\n\
                    big: 123456789012345678901234567890123456789012345678901234567890\nnan: .nan\nf: !odd {g: 1}\nf: last\n";
        let all = Yaml::parse(yaml).map_err(|line| format!("line {line:?}")).unwrap();
        assert!(all.get("a").unwrap().members() == [&text("x"), &text("w")]);
        assert_eq!(all.get("b").unwrap().text(), Some("eHl6"));
        let list = all.get("c").unwrap().members();
        assert!(list[0] == &Yaml::Int(1) && list[2] == &Yaml::Null && list[4] == &text("1"));
        assert!(all.get("e").unwrap().members() == [&text("z")]);
        assert!(all.get("nan").is_some() && all.get("big").is_some());
        assert_eq!(all.get("f").unwrap().text(), Some("last"));
        assert!(all.get("1").is_none());
    }

    #[test]
    fn bombs_do_not_go_off() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
        }
        assert!(Yaml::parse(&bomb).is_err());
        assert!(Yaml::parse(&"[".repeat(100_000)).is_err());
        assert!(Yaml::parse(&"- ".repeat(100_000)).is_err());
        assert!(Yaml::parse(&"- 1\n".repeat(NODE_LIMIT + 10)).is_err());
        assert!(Yaml::parse(&"{a: ".repeat(1000)).is_err());
        assert!(Yaml::parse("a: *a\n").is_err());
        assert!(Yaml::parse("a: &a [*a]\n").is_err());
        assert_eq!(Yaml::parse("ok: 1\nbad: [\n").err().map(|line| line.is_some()), Some(true));
    }
}
