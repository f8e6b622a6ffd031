//! Who may call. A token itself is nowhere kept: only its SHA-256.
//!
//! A token that was revoked keeps its row: it owns jobs, and the audit log names it.

use protocol::TokenId;
use protocol::rights::{Role, TokenState, TokenStatus};

use super::StoreError;
use super::db::{Row, Tx, args};
use crate::clock::{Millis, rfc3339};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's id: the owner of what it submits.
    pub owner: String,
    /// What the token is called.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

impl Identity {
    /// Whose jobs it may see.
    pub fn scope(&self) -> Scope {
        match self.role {
            Role::Admin => Scope::All,
            Role::Submit | Role::Agent => Scope::Of(self.owner.clone()),
        }
    }
}

/// Whose jobs are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of this owner. Of all others it must not be told whether they are there.
    Of(String),
}

impl Scope {
    /// Whether what is `owner`'s is meant.
    pub fn covers(&self, owner: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(one) => one == owner,
        }
    }
}

/// A token that there is or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Whose it is.
    pub identity: Identity,
    /// Until when it is good.
    pub expires_at: Option<Millis>,
    /// When it was revoked.
    pub revoked_at: Option<Millis>,
}

impl Known {
    /// Whether it is good at the time `now`.
    pub fn state(&self, now: Millis) -> TokenState {
        state(self.expires_at, self.revoked_at, now)
    }
}

fn state(expires_at: Option<Millis>, revoked_at: Option<Millis>, now: Millis) -> TokenState {
    if revoked_at.is_some() {
        TokenState::Revoked
    } else if expires_at.is_some_and(|end| end <= now) {
        TokenState::Expired
    } else {
        TokenState::Live
    }
}

/// Finds the token whose SHA-256 is `hash`, in hex, also one that is not good any more.
///
/// # Errors
/// The database's.
pub async fn find(tx: &mut Tx<'_>, hash: &str) -> Result<Option<Known>, StoreError> {
    let row = tx
        .first(
            "select id, name, role, expires_at, revoked_at from tokens where hash = $1",
            args![hash],
        )
        .await?;
    let known = |row: Row| {
        Ok(Known {
            identity: Identity {
                owner: row.text("id")?,
                name: row.text("name")?,
                role: role(&row)?,
            },
            expires_at: row.maybe_int("expires_at")?,
            revoked_at: row.maybe_int("revoked_at")?,
        })
    };
    row.map(known).transpose()
}

fn role(row: &Row) -> Result<Role, StoreError> {
    let name = row.text("role")?;
    Role::parse(&name).ok_or_else(|| StoreError::corrupt("role", &name))
}

/// Makes the token whose SHA-256 is `hash` an administrator's, if it is not known.
///
/// # Errors
/// The database's.
pub async fn ensure_admin(tx: &mut Tx<'_>, hash: &str, now: Millis) -> Result<(), StoreError> {
    if find(tx, hash).await?.is_some() {
        return Ok(());
    }
    let name = admin_name(tx).await?;
    tx.execute(
        "insert into tokens (id, hash, role, name, created_at) values ($1, $2, 'admin', $3, $4)",
        // An owner is known to agents by this id, so it must not be the hash.
        args![TokenId::new(), hash, name, now],
    )
    .await?;
    Ok(())
}

/// A name for an administrator that is made at a start: the first one, or the one after those.
async fn admin_name(tx: &mut Tx<'_>) -> Result<String, StoreError> {
    let row = tx
        .first("select count(*) as n from tokens where name like 'first administrator%'", args![])
        .await?;
    let n = row.map_or(Ok(0), |row| row.count("n"))?;
    if n == 0 {
        return Ok("first administrator".to_owned());
    }
    tracing::warn!(
        "the database knows an administrator's token, and this server was started with another, as \
         after a restore: it was added as another administrator's. `farrow token list` shows them, \
         `farrow token revoke` ends one. Servers that share a database are given the same FARROW_TOKEN"
    );
    Ok(format!("first administrator {}", n + 1))
}

/// A token to be written down.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its id.
    pub id: TokenId,
    /// Its SHA-256, in hex.
    pub hash: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Until when it is good.
    pub expires_at: Option<Millis>,
}

/// Writes a token down. `false`: another that is good has its name.
///
/// # Errors
/// The database's.
pub async fn create(tx: &mut Tx<'_>, token: NewToken, now: Millis) -> Result<bool, StoreError> {
    let taken = tx
        .first(
            "select id from tokens where name = $1 and revoked_at is null
                 and (expires_at is null or expires_at > $2) limit 1",
            args![token.name.as_str(), now],
        )
        .await?;
    if taken.is_some() {
        return Ok(false);
    }
    tx.execute(
        "insert into tokens (id, hash, role, name, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        args![token.id, token.hash, token.role.as_str(), token.name, now, token.expires_at],
    )
    .await?;
    Ok(true)
}

/// What an attempt to revoke a token came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is good no more; its SHA-256.
    Now(String),
    /// It was revoked before.
    Before,
    /// There is no such token.
    Unknown,
    /// It is the last of an administrator that is good: nobody could make another.
    LastAdmin,
}

/// Revokes a token.
///
/// # Errors
/// The database's.
pub async fn revoke(tx: &mut Tx<'_>, id: TokenId, now: Millis) -> Result<Revoked, StoreError> {
    let row = tx
        .first("select hash, role, expires_at, revoked_at from tokens where id = $1", args![id])
        .await?;
    let Some(row) = row else { return Ok(Revoked::Unknown) };
    match state(row.maybe_int("expires_at")?, row.maybe_int("revoked_at")?, now) {
        TokenState::Revoked => return Ok(Revoked::Before),
        TokenState::Live if role(&row)? == Role::Admin && !has_other_admin(tx, id, now).await? => {
            return Ok(Revoked::LastAdmin);
        }
        TokenState::Live | TokenState::Expired => {}
    }
    tx.execute("update tokens set revoked_at = $2 where id = $1", args![id, now]).await?;
    Ok(Revoked::Now(row.text("hash")?))
}

async fn has_other_admin(tx: &mut Tx<'_>, id: TokenId, now: Millis) -> Result<bool, StoreError> {
    let other = tx
        .first(
            "select id from tokens where role = 'admin' and id <> $1 and revoked_at is null
                 and (expires_at is null or expires_at > $2) limit 1",
            args![id, now],
        )
        .await?;
    Ok(other.is_some())
}

/// The tokens whose ids come after `after`, at most `limit`; only those called `name`, if it is given.
///
/// # Errors
/// The database's.
pub async fn list(
    tx: &mut Tx<'_>,
    after: &str,
    name: Option<&str>,
    limit: u32,
    now: Millis,
) -> Result<Vec<TokenStatus>, StoreError> {
    let rows = tx
        .all(
            "select id, name, role, created_at, expires_at, revoked_at, last_used_at from tokens
             where id > $1 and (name = $2 or $3) order by id limit $4",
            args![after, name.unwrap_or_default(), name.is_none(), limit],
        )
        .await?;
    rows.iter().map(|row| status(row, now)).collect()
}

fn status(row: &Row, now: Millis) -> Result<TokenStatus, StoreError> {
    let (expires_at, revoked_at) = (row.maybe_int("expires_at")?, row.maybe_int("revoked_at")?);
    Ok(TokenStatus {
        id: row.id("id")?,
        name: row.text("name")?,
        role: role(row)?,
        state: state(expires_at, revoked_at, now),
        created_at: rfc3339(row.int("created_at")?),
        expires_at: expires_at.map(rfc3339),
        revoked_at: revoked_at.map(rfc3339),
        last_used_at: row.maybe_int("last_used_at")?.map(rfc3339),
    })
}

/// Writes down when tokens, given by their ids, were used last.
///
/// # Errors
/// The database's.
pub async fn used(tx: &mut Tx<'_>, uses: &[(String, Millis)]) -> Result<(), StoreError> {
    for (id, at) in uses {
        tx.execute(
            "update tokens set last_used_at = $2
             where id = $1 and coalesce(last_used_at, 0) < $2",
            args![id.as_str(), *at],
        )
        .await?;
    }
    Ok(())
}
