//! The contract: what each RPC reads, does and answers.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use tandem_contract::Call;
use tandem_contract::pb::tandem::model::v1::CountTokensRequest;
use tandem_contract::pb::tandem::session::v1::{
    AmendTurnRequest, AmendTurnResponse, AppendTurnRequest, AppendTurnResponse, CreateSessionRequest,
    CreateSessionResponse, DeleteSessionRequest, DeleteSessionResponse, EndSessionRequest, EndSessionResponse,
    GetTurnRequest, GetTurnResponse, GetWindowRequest, GetWindowResponse, ListSessionsRequest, ListSessionsResponse,
    ListTurnsRequest, ListTurnsResponse, SearchTurnsRequest, SearchTurnsResponse, TurnHit,
};
use tandem_contract::rpc::engine;
use tandem_store::paging::Page;
use tandem_store::personal::Consent;
use tandem_store::sessions::{Amendment, Budget, NewEntry, NewSession, Search, Speaker};
use tandem_types::{Fault, SessionId, Timestamp, TurnId, UserId};

use super::{ROLE, SessionMemory, logic};
use crate::fields::Fields;

impl SessionMemory {
    pub(super) async fn create_session(
        self: Arc<Self>,
        _call: Call,
        request: CreateSessionRequest,
    ) -> Result<CreateSessionResponse, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let user = fields.parse("user_id", &request.user_id);
        let id = fields.optional("session_id", &request.session_id);
        let ((key, user), id) = fields.all(key.zip(user).zip(id))?;
        let new =
            NewSession { user, id, channel: request.channel, language: request.language, consent: Consent::Serve };
        let created = self.store.create(key, new, self.ctx.clock().now()).await?;
        gauge!("tandem_sessions_open").set(self.store.open_sessions().await? as f64);
        Ok(CreateSessionResponse { session: logic::session(created.session).into(), ..Default::default() })
    }

    pub(super) async fn append_turn(
        self: Arc<Self>,
        call: Call,
        request: AppendTurnRequest,
    ) -> Result<AppendTurnResponse, Fault> {
        let turn = request.turn.into_option().unwrap_or_default();
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let session = fields.parse::<SessionId>("session_id", &request.session_id);
        let id = fields.parse("turn.turn_id", &turn.turn_id);
        let speaker = fields.parse::<Speaker>("turn.role", &turn.role);
        fields.require(!turn.text.is_empty(), "turn.text", "is empty");
        fields.require(turn.amended_text.is_empty(), "turn.amended_text", "is set by AmendTurn only");
        fields.json("turn.spans_json", &turn.spans_json);
        fields.json("turn.source_json", &turn.source_json);
        let (((key, user), session), (id, speaker)) = fields.all(key.zip(user).zip(session).zip(id.zip(speaker)))?;
        let tokens = if turn.tokens > 0 { turn.tokens } else { self.count(&turn.text, &call).await };
        let entry = NewEntry {
            turn: id,
            speaker,
            text: turn.text,
            language: turn.language,
            spans: turn.spans_json,
            handler: turn.handler,
            source: turn.source_json,
            tokens,
        };
        let number = self.store.append(key, &user, &session, entry, self.ctx.clock().now()).await?;
        counter!("tandem_turns_stored_total", "role" => speaker.as_str()).increment(1);
        self.grown.lock().unwrap_or_else(PoisonError::into_inner).insert((user, session));
        self.wake.notify_one();
        Ok(AppendTurnResponse { number, ..Default::default() })
    }

    pub(super) async fn amend_turn(
        self: Arc<Self>,
        call: Call,
        request: AmendTurnRequest,
    ) -> Result<AmendTurnResponse, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let session = fields.parse::<SessionId>("session_id", &request.session_id);
        let turn = fields.parse::<TurnId>("turn_id", &request.turn_id);
        let speaker = fields.parse::<Speaker>("role", &request.role);
        let (((key, user), session), (turn, speaker)) =
            fields.all(key.zip(user).zip(session).zip(turn.zip(speaker)))?;
        let tokens = self.count(&request.text, &call).await;
        let amendment = Amendment { turn, speaker, text: request.text, tokens };
        self.store.amend(key, &user, &session, amendment, self.ctx.clock().now()).await?;
        Ok(AmendTurnResponse::default())
    }

    pub(super) async fn get_turn(
        self: Arc<Self>,
        _call: Call,
        request: GetTurnRequest,
    ) -> Result<GetTurnResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse("user_id", &request.user_id);
        let turn = fields.parse("turn_id", &request.turn_id);
        let (user, turn) = fields.all(user.zip(turn))?;
        let turns = self.store.turn(&user, turn).await?.into_iter().map(logic::turn).collect();
        Ok(GetTurnResponse { turns, ..Default::default() })
    }

    pub(super) async fn get_window(
        self: Arc<Self>,
        _call: Call,
        request: GetWindowRequest,
    ) -> Result<GetWindowResponse, Fault> {
        let most = self.settings.budget();
        let mut fields = Fields::default();
        let user = fields.parse("user_id", &request.user_id);
        let session = fields.parse("session_id", &request.session_id);
        let tokens = fields.at_most("max_tokens", request.max_tokens, most.tokens, most.tokens);
        let items = fields.at_most("max_items", request.max_items, most.items, most.items);
        let ((user, session), (tokens, items)) = fields.all(user.zip(session).zip(tokens.zip(items)))?;
        let window = self.store.window(&user, &session, Budget { tokens, items }).await?;
        histogram!("tandem_window_tokens").record(window.tokens);
        Ok(GetWindowResponse {
            turns: window.entries.into_iter().map(logic::turn).collect(),
            summary: window.summary.map(|summary| summary.text).unwrap_or_default(),
            truncated: window.truncated,
            tokens: window.tokens,
            ..Default::default()
        })
    }

    pub(super) async fn list_turns(
        self: Arc<Self>,
        _call: Call,
        request: ListTurnsRequest,
    ) -> Result<ListTurnsResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse("user_id", &request.user_id);
        let session = fields.parse("session_id", &request.session_id);
        let (user, session) = fields.all(user.zip(session))?;
        let page = Page { size: request.page_size, token: request.page_token };
        let page = self.store.entries(&user, &session, page).await?;
        let turns = page.items.into_iter().map(logic::turn).collect();
        Ok(ListTurnsResponse { turns, next_page_token: page.next, ..Default::default() })
    }

    pub(super) async fn search_turns(
        self: Arc<Self>,
        _call: Call,
        request: SearchTurnsRequest,
    ) -> Result<SearchTurnsResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse("user_id", &request.user_id);
        let session = fields.optional("session_id", &request.session_id);
        let limit = fields.at_most("page_size", request.page_size, 50, 500);
        let ((user, session), limit) = fields.all(user.zip(session).zip(limit))?;
        // 0 is now, and what is said at this very moment counts.
        let to = if request.to_us == 0 {
            self.ctx.clock().now() + Duration::from_micros(1)
        } else {
            Timestamp(request.to_us)
        };
        let search = Search { query: request.query, session, from: Timestamp(request.from_us), to, limit };
        let hits = self.store.search(&user, search).await?.into_iter().map(|hit| TurnHit {
            session_id: hit.entry.session.to_string(),
            turn: logic::turn(hit.entry).into(),
            score: hit.score,
            ..Default::default()
        });
        Ok(SearchTurnsResponse { hits: hits.collect(), ..Default::default() })
    }

    pub(super) async fn list_sessions(
        self: Arc<Self>,
        _call: Call,
        request: ListSessionsRequest,
    ) -> Result<ListSessionsResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse("user_id", &request.user_id);
        let user = fields.all(user)?;
        let page = self.store.sessions(&user, Page { size: request.page_size, token: request.page_token }).await?;
        let sessions = page.items.into_iter().map(logic::session).collect();
        Ok(ListSessionsResponse { sessions, next_page_token: page.next, ..Default::default() })
    }

    pub(super) async fn end_session(
        self: Arc<Self>,
        _call: Call,
        request: EndSessionRequest,
    ) -> Result<EndSessionResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse("user_id", &request.user_id);
        let session = fields.parse("session_id", &request.session_id);
        let (user, session) = fields.all(user.zip(session))?;
        let ended = self.store.end(&user, &session, self.ctx.clock().now()).await?;
        gauge!("tandem_sessions_open").set(self.store.open_sessions().await? as f64);
        Ok(EndSessionResponse { session: logic::session(ended).into(), ..Default::default() })
    }

    pub(super) async fn delete_session(
        self: Arc<Self>,
        _call: Call,
        request: DeleteSessionRequest,
    ) -> Result<DeleteSessionResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse("user_id", &request.user_id);
        let session = fields.parse("session_id", &request.session_id);
        let key = fields.key(&request.idempotency_key);
        let ((user, session), key) = fields.all(user.zip(session).zip(key))?;
        let turns = self.store.delete(key, &user, &session, self.ctx.clock().now()).await?;
        gauge!("tandem_sessions_open").set(self.store.open_sessions().await? as f64);
        Ok(DeleteSessionResponse { turns: u32::try_from(turns).unwrap_or(u32::MAX), ..Default::default() })
    }

    /// Tokens by the tokenizer of the model at hand; 0 when there is none or it does not answer in time.
    pub(super) async fn count(&self, text: &str, call: &Call) -> u32 {
        let counted = async {
            let ticket = self.tickets.at_hand(ROLE)?;
            let call = call.next(self.ctx.id()).within(Duration::from_millis(self.settings.count_ms), Instant::now());
            let request = CountTokensRequest { text: text.to_owned(), ..Default::default() };
            match self.tickets.engine(&ticket).ok()?.unary(engine::COUNT_TOKENS, request, &call).await {
                Ok(answer) => Some(answer.tokens),
                Err(fault) => {
                    // A slow tokenizer is busy; any other failure means that the engine of this ticket is gone.
                    if fault.code != tandem_types::Code::DeadlineExceeded {
                        self.tickets.forget(&ticket.ticket_id);
                    }
                    None
                }
            }
        };
        let tokens = counted.await;
        let how = if tokens.is_some() { "model" } else { "estimate" };
        counter!("tandem_tokens_counted_total", "how" => how).increment(1);
        tokens.unwrap_or(0)
    }
}
