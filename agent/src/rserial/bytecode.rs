//! Compiled functions. Nothing of them is kept; but what follows them must be found.

use super::reader::Reader;
use super::{Untranslatable, tag};

/// Marks in the constants of byte code: code that stands there before, or will be referred to.
const REPEATED: u32 = 243;
const TO_BE_REPEATED: u32 = 244;

impl Reader<'_> {
    /// A body of byte code, behind its tag.
    pub(super) fn byte_code(&mut self) -> Result<(), Untranslatable> {
        // How many parts are referred to.
        self.word()?;
        self.one_code()
    }

    /// The instructions, and the constants that they name.
    fn one_code(&mut self) -> Result<(), Untranslatable> {
        self.item()?;
        for _ in 0..self.length()? {
            match self.word()? {
                tag::BYTE_CODE => self.deeper(Self::one_code)?,
                kind => self.constant(kind)?,
            }
        }
        Ok(())
    }

    /// A constant, or a part of one that is code: code is written without the words before it.
    fn constant(&mut self, kind: u32) -> Result<(), Untranslatable> {
        let kind = match kind {
            REPEATED => return self.word().map(drop),
            TO_BE_REPEATED => {
                self.word()?;
                self.word()?
            }
            kind => kind,
        };
        match kind {
            tag::ATTRIBUTE_LANGUAGE | tag::ATTRIBUTE_PAIRLIST => {
                self.item()?;
                self.pair()
            }
            tag::LANGUAGE | tag::PAIRLIST => self.pair(),
            _ => self.item().map(drop),
        }
    }

    /// A tag and the two sides of a pair.
    fn pair(&mut self) -> Result<(), Untranslatable> {
        self.item()?;
        for _ in 0..2 {
            let kind = self.word()?;
            self.deeper(|reader| reader.constant(kind))?;
        }
        Ok(())
    }
}
