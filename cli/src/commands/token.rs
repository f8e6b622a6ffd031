//! `farrow token`: who may talk to the server, and what they may do.

use std::time::Duration;

use clap::{Args, Subcommand};
use protocol::TokenId;
use protocol::rights::{CreateToken, CreatedToken, Role, TokenState, TokenStatus};
use serde::Serialize;

use crate::client::{CallError, Client};
use crate::clock;
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::human;
use crate::output::{OutputArgs, remark};
use crate::persistence::{Patience, persist};
use crate::screen::Screen;
use crate::table;

const EXAMPLES: &str = "\
Examples:
  farrow token create --role submit --name \"ada's laptop\" --expires-in 30d
  (umask 077; farrow token create --role agent --name fleet > agent.token)
  farrow token list
  farrow token revoke \"ada's laptop\"

`submit` submits jobs and sees its own; `agent` runs them; `admin` may do all, and alone makes
tokens. A token is shown once, when it is made: the server keeps no more than its SHA-256. Give it
to a command in FARROW_TOKEN or, in a file, by --token-file.
";

/// Make, list and revoke tokens, which let people and agents in
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Token {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a token and print it, this once
    Create(Create),
    /// List the tokens, without their secrets: what they may do, until when, and their last use
    List(List),
    /// Revoke tokens: they let nobody in any more; what they have submitted stays
    Revoke(Revoke),
}

#[derive(Args, Debug)]
struct Create {
    /// What the token lets its holder do
    #[arg(long, env = "FARROW_ROLE", value_parser = role, value_name = "submit|agent|admin")]
    role: Role,
    /// What to call it; of the tokens that are good, no other is called so
    #[arg(long, value_name = "NAME")]
    name: String,
    /// For how long it is good, such as 12h, 30d or 2w [default: until it is revoked]
    #[arg(long, env = "FARROW_EXPIRES_IN", value_parser = server::duration, value_name = "DURATION")]
    expires_in: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
struct Revoke {
    /// The tokens, by their ids or names
    #[arg(required = true, value_name = "ID|NAME")]
    tokens: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// A token that is good no more.
#[derive(Serialize)]
struct Revoked {
    id: TokenId,
    revoked: bool,
}

impl Token {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Create(create) => create.run().await,
            Command::List(list) => list.run().await,
            Command::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let expires_in = self.expires_in.map(|time| time.as_secs_f64());
        let token = CreateToken { name: self.name, role: self.role, expires_in };
        // Asked once: after a lost answer the secret is lost, and another token is needed.
        let created = client.create_token(&token).await.map_err(|error| unmade(error, &token))?;
        if !self.output.json {
            remark(&story(&created));
        }
        self.output.print(&created, |created| format!("{}\n", created.token))
    }
}

fn unmade(error: CallError, token: &CreateToken) -> Failure {
    let (status, is_lost) = (error.status(), matches!(error, CallError::Lost { .. }));
    let failure = Failure::from(error);
    let name = &token.name;
    match status {
        Some(409) => failure.remedy(format!("revoke it before: farrow token revoke {name:?}")),
        _ if is_lost => failure.remedy(format!(
            "it may have been made, but its secret is lost: farrow token revoke {name:?}, and make \
             it again"
        )),
        _ => failure,
    }
}

/// What is to say beside the secret, which alone goes to standard output.
fn story(created: &CreatedToken) -> String {
    let end = match &created.expires_at {
        Some(end) => format!("good until {end}"),
        None => "good until it is revoked".to_owned(),
    };
    format!(
        "token {} ({}, {:?}), {end}; it is shown this once:\n",
        created.id, created.role, created.name
    )
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let tokens = all(&client, None).await?;
        self.output.print(&tokens, |tokens| list(tokens))
    }
}

async fn all(client: &Client, name: Option<&str>) -> Result<Vec<TokenStatus>, CallError> {
    let (mut tokens, mut after) = (Vec::new(), None);
    loop {
        let page = client.tokens(name, after.as_deref()).await?;
        tokens.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(tokens),
        }
    }
}

fn list(tokens: &[TokenStatus]) -> String {
    let now = clock::now();
    let ago = |time: &Option<String>| {
        time.as_ref().map_or_else(|| "never".to_owned(), |time| human::ago(time, now))
    };
    let row = |token: &TokenStatus| {
        vec![
            token.name.clone(),
            token.role.as_str().to_owned(),
            token.state.as_str().to_owned(),
            human::ago(&token.created_at, now),
            ago(&token.last_used_at),
            token.expires_at.clone().unwrap_or_else(|| "-".to_owned()),
            token.id.to_string(),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table::with_heading(&["NAME", "ROLE", "STATE", "MADE", "LAST USED", "EXPIRES", "TOKEN"], &rows)
}

impl Revoke {
    /// Revokes one token after the other; stops at the first that cannot be.
    async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let (mut revoked, mut refused) = (Vec::new(), None);
        for token in &self.tokens {
            let done = async {
                let id = id_of(&client, token).await?;
                let revoke = async || client.revoke_token(id).await;
                persist(&screen, Patience::Brief, revoke).await?;
                Ok(id)
            };
            match done.await {
                Ok(id) => revoked.push(Revoked { id, revoked: true }),
                Err(failure) => {
                    refused = Some(failure);
                    break;
                }
            }
        }
        self.output.print(&revoked, |revoked| {
            revoked.iter().map(|revoked| format!("{}  revoked\n", revoked.id)).collect()
        })?;
        refused.map_or(Ok(()), Err)
    }
}

/// The id of the token that is called so; of several that were, the one that is good, else the last.
async fn id_of(client: &Client, token: &str) -> Result<TokenId, Failure> {
    if let Ok(id) = token.parse() {
        return Ok(id);
    }
    let called = all(client, Some(token)).await?;
    let good = called.iter().find(|token| token.state == TokenState::Live);
    good.or(called.last()).map(|token| token.id).ok_or_else(|| {
        Failure::new(Exit::Server, format!("there is no token called {token:?}"))
            .remedy("`farrow token list` lists the tokens that there are")
    })
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "a role is submit, agent or admin".to_owned())
}
