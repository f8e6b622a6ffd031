//! The value of an argument or a global: JSON on the command line, or a file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use protocol::job::Encoding;
use serde_json::value::RawValue;

use super::upload::{Upload, reference};
use crate::arguments::name_and_rest;
use crate::blob::Blob;
use crate::elements::json;

/// A value of more bytes than this is uploaded as a blob, which agents fetch once.
const INLINE: usize = 64 << 10;

/// The value of an argument or a global.
#[derive(Clone, Debug)]
pub enum GivenValue {
    /// It stands on the command line.
    Json(Box<RawValue>),
    /// It is in a file, which is of this encoding.
    File(PathBuf, Encoding),
}

impl GivenValue {
    /// Parses `name=JSON` or `name=@FILE`.
    pub fn parse(text: &str) -> Result<(String, Self), String> {
        let (name, value) = name_and_rest(text, "JSON")?;
        if let Some(file) = value.strip_prefix('@') {
            let file = PathBuf::from(file);
            File::open(&file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let encoding = encoding_of(&file);
            return Ok((name.to_owned(), Self::File(file, encoding)));
        }
        let value = json(value).map_err(|error| {
            format!("the value of {name} {error}; a text needs quotes: '{name}=\"text\"'")
        })?;
        Ok((name.to_owned(), Self::Json(value.to_owned())))
    }

    /// As it stands in a submission. What is large, or not JSON, is added to `upload`; `what` is
    /// its name there.
    pub fn to_json(&self, what: &str, upload: &mut Upload) -> Result<Box<RawValue>, String> {
        let text = match self {
            Self::Json(value) => value.get().to_owned(),
            Self::File(file, Encoding::Json) => {
                let text = fs::read_to_string(file).map_err(|error| cannot_read(file, &error))?;
                json(&text).map_err(|error| format!("{} {error}", file.display()))?;
                text
            }
            Self::File(file, encoding) => {
                let blob = read(file, *encoding)?;
                return Ok(reference(upload.add(what, blob), *encoding));
            }
        };
        if text.len() > INLINE {
            return Ok(reference(upload.add(what, Blob::of_bytes(text)), Encoding::Json));
        }
        RawValue::from_string(text.trim().to_owned()).map_err(|error| error.to_string())
    }
}

fn encoding_of(file: &Path) -> Encoding {
    let extension = file.extension().map(|extension| extension.to_ascii_lowercase());
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("json") => Encoding::Json,
        Some("rds") => Encoding::Rds,
        Some("pickle" | "pkl") => Encoding::Pickle,
        _ => Encoding::Bytes,
    }
}

/// Reads a file for upload. Agents read what `saveRDS()` writes, unless it was told to compress
/// otherwise; that is said here, before the job.
fn read(file: &Path, encoding: Encoding) -> Result<Blob, String> {
    let wrong = |error: io::Error| cannot_read(file, &error);
    let mut magic = Vec::new();
    File::open(file).map_err(wrong)?.take(3).read_to_end(&mut magic).map_err(wrong)?;
    match magic.as_slice() {
        b"BZh" | b"\xfd7z" if encoding == Encoding::Rds => Err(format!(
            "{} is compressed by bzip2 or xz; write it by saveRDS(…, compress = \"gzip\")",
            file.display()
        )),
        _ => Blob::of_file(file).map_err(wrong),
    }
}

fn cannot_read(file: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn json_values_keep_their_text() {
        let (name, value) = GivenValue::parse("x={\"a\": 1.10}").unwrap();
        let mut upload = Upload::default();
        assert_eq!(
            (name.as_str(), value.to_json("x", &mut upload).unwrap().get()),
            ("x", "{\"a\": 1.10}")
        );
        assert!(upload.is_empty());
        assert!(GivenValue::parse("x=text").unwrap_err().contains("a text needs quotes"));
        assert!(GivenValue::parse("x").unwrap_err().contains("NAME=JSON"));
        assert!(GivenValue::parse("x=@/no/such/file").unwrap_err().contains("/no/such/file"));
    }

    #[test]
    fn files_are_read_by_their_endings_and_uploaded() {
        let folder = tempfile::tempdir().unwrap();
        let given = |name: &str, bytes: &[u8]| {
            let file = folder.path().join(name);
            fs::write(&file, bytes).unwrap();
            let mut upload = Upload::default();
            let value = GivenValue::parse(&format!("x=@{}", file.display())).unwrap().1;
            value.to_json("x", &mut upload).map(|json| (json.get().to_owned(), upload.is_empty()))
        };
        assert_eq!(given("a.json", b" [1.50]\n"), Ok(("[1.50]".to_owned(), true)));
        assert!(given("b.json", b"nope").unwrap_err().contains("is not JSON"));
        let long = format!("\"{}\"", "x".repeat(INLINE));
        let by_digest = |bytes: &[u8], encoding: &str| {
            Ok((
                format!("{{\"blob\":\"{}\",\"encoding\":\"{encoding}\"}}", Digest::of_bytes(bytes)),
                false,
            ))
        };
        assert_eq!(given("c.json", long.as_bytes()), by_digest(long.as_bytes(), "json"));
        assert_eq!(given("d.pkl", b"\x80"), by_digest(b"\x80", "pickle"));
        assert_eq!(given("e.csv", b"a,b"), by_digest(b"a,b", "bytes"));
        assert_eq!(given("f.RDS", b"\x1f\x8b"), by_digest(b"\x1f\x8b", "rds"));
        assert_eq!(given("g.rds", b"X\nrds"), by_digest(b"X\nrds", "rds"));
        assert!(given("h.rds", b"BZh9").unwrap_err().contains("compress = \"gzip\""));
    }
}
