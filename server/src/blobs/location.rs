//! What `--blobs` says: a folder, or a bucket of S3-compatible storage.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How a bucket is named.
const SCHEME: &str = "s3://";

/// Where blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobsAt {
    /// In a folder.
    Folder(PathBuf),
    /// In a bucket.
    Bucket(BucketName),
}

/// A bucket, and what the keys of all objects in it begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketName {
    /// The name of the bucket.
    pub bucket: String,
    /// Without slashes around it; empty: none.
    pub prefix: String,
}

impl BucketName {
    /// The key of the object `name`.
    pub fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.key_of_all())
    }
}

impl BucketName {
    fn key_of_all(&self) -> String {
        let separator = if self.prefix.is_empty() { "" } else { "/" };
        format!("{}{separator}{}", self.bucket, self.prefix)
    }
}

impl fmt::Display for BlobsAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl FromStr for BlobsAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty: give a folder, or s3://BUCKET/PREFIX".to_owned());
        }
        let Some(place) = text.strip_prefix(SCHEME) else {
            return match text.split_once("://") {
                Some((scheme, _)) => Err(format!(
                    "{scheme}:// is no storage that is known: give a folder, or s3://BUCKET/PREFIX; \
                     other storage that speaks S3 is named by AWS_ENDPOINT_URL"
                )),
                None => Ok(Self::Folder(text.into())),
            };
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let is_sound = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        // Credentials, too, are refused by that, before anybody keeps them in a file.
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_sound) {
            return Err(
                "the name of a bucket has 3 to 63 letters, digits, dots and hyphens, as in \
                 s3://BUCKET/PREFIX; credentials belong into AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY"
                    .to_owned(),
            );
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_part = |part: &str| !part.is_empty() && part.chars().all(is_sound) && !is_dots(part);
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err(format!(
                "{prefix:?} cannot be what keys begin with: take letters, digits, `.`, `-`, `_`, and \
                 single slashes between them"
            ));
        }
        Ok(Self::Bucket(BucketName { bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
    }
}

fn is_dots(part: &str) -> bool {
    part == "." || part == ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_and_its_prefix_are_read_and_written_alike() {
        for (text, bucket, prefix) in [
            ("s3://lab-data", "lab-data", ""),
            ("s3://lab-data/farrow", "lab-data", "farrow"),
            ("s3://lab.data/a/b_1", "lab.data", "a/b_1"),
        ] {
            let at: BlobsAt = text.parse().unwrap();
            let name = BucketName { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
            assert_eq!(at, BlobsAt::Bucket(name));
            assert_eq!(at.to_string(), text);
            assert_eq!(format!("{text}/").parse(), Ok(at));
        }
    }

    #[test]
    fn what_is_no_address_is_a_folder() {
        for text in ["blobs", "/mnt/blobs", "s3", "a:b"] {
            assert_eq!(text.parse(), Ok(BlobsAt::Folder(text.into())));
        }
    }

    #[test]
    fn other_addresses_and_credentials_in_them_are_refused() {
        for text in [
            "",
            "gs://bucket",
            "https://bucket.s3.amazonaws.com",
            "s3://",
            "s3://ab",
            "s3://key:secret@bucket",
            "s3://bucket//a",
            "s3://bucket/../a",
            "s3://bucket/a b",
        ] {
            let refused = text.parse::<BlobsAt>().unwrap_err();
            assert!(!refused.contains("secret@"), "{refused}");
        }
    }
}
