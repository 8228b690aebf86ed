//! How much memory JSON takes once it is read. Eight bytes of text, `{"":0},`, become 600 bytes of memory: what is kept of what programs
//! send is bounded by this, not by its text.

use serde_json::Value;

/// An element of a list, or what is not in one.
const VALUE: usize = 32;
/// Fields lie in nodes of at least 5 and at most 11.
const NODE: usize = 640;
const NODE_FIELDS: usize = 5;
/// What the allocator adds to a text.
const TEXT: usize = 16;

/// The memory of `value` in bytes, about, and rather too much than too little.
pub(crate) fn memory_of(value: &Value) -> usize {
    let text = |text: &str| TEXT + text.len();
    VALUE
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(string) => text(string),
            Value::Array(elements) => elements.iter().map(memory_of).sum(),
            Value::Object(fields) => {
                let each = fields.iter().map(|(name, value)| text(name) + memory_of(value));
                NODE * fields.len().div_ceil(NODE_FIELDS) + each.sum::<usize>()
            }
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_short_as_text_may_be_large() {
        let many: Value = serde_json::from_str(&format!("[{}0]", "{\"\":0},".repeat(1000))).unwrap();
        assert!(memory_of(&many) > 600 * 1000, "{}", memory_of(&many));
        let long = json!("x".repeat(1 << 20));
        assert!((1 << 20..(1 << 20) + 100).contains(&memory_of(&long)));
        assert!(memory_of(&json!({"used": {"value": 1, "unit": "MB"}})) < 2000);
    }
}
