//! Requests that a server of a test reads.

use std::io::{self, BufRead};

/// A request with a body.
#[derive(Debug)]
pub struct Posted {
    /// Its first line.
    pub line: String,
    /// Its fields, in lower case.
    pub fields: Vec<String>,
    /// Its body, of the length that it says.
    pub body: Vec<u8>,
}

impl Posted {
    /// Reads the next one. `None`: there is no other.
    ///
    /// # Errors
    /// The client is gone.
    ///
    /// # Panics
    /// Its length is no number.
    pub fn read(client: &mut impl BufRead) -> io::Result<Option<Posted>> {
        let (mut line, mut fields, mut length) = (String::new(), Vec::new(), 0);
        if client.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        loop {
            let mut field = String::new();
            if client.read_line(&mut field)? <= 2 {
                break;
            }
            let field = field.trim().to_ascii_lowercase();
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            fields.push(field);
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        Ok(Some(Posted { line, fields, body }))
    }

    /// What it is sent to.
    #[must_use]
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// It has this field, in lower case.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.fields.iter().any(|known| known == field)
    }
}
