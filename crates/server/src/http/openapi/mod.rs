//! Routes that describe themselves: what their handlers take and give is read off the handlers' types, and a
//! route of the API cannot be registered without a name and a sentence.

mod document;
mod parameters;
mod sketch;

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::JsonSchema;

use crate::app::App;

pub(crate) use sketch::{Described, Sketch};

/// Below these, every route is described.
const DESCRIBED: [&str; 2] = ["/api/v1/", "/device/v1/"];

/// The routes of the server, those of the API with their descriptions.
pub(crate) struct Api {
    router: Router<Arc<App>>,
    groups: Vec<Group>,
    routes: Vec<Route>,
}

/// Routes that belong together.
struct Group {
    name: &'static str,
    text: &'static str,
}

/// Something about a route.
type Saying = Box<dyn Fn(&mut Sketch<'_>)>;

/// A described route.
pub(crate) struct Route {
    method: &'static str,
    path: &'static str,
    group: &'static str,
    /// Its name, which programs that are generated from the document call it by. It never changes.
    id: &'static str,
    summary: &'static str,
    note: &'static str,
    /// What the handler's types say.
    types: fn(&mut Sketch<'_>),
    /// What they do not say.
    more: Vec<Saying>,
}

impl Route {
    /// Adds what does not fit into the summary.
    pub(crate) fn note(&mut self, note: &'static str) -> &mut Self {
        self.note = note;
        self
    }

    /// Says what is in a body that the handler reads itself.
    pub(crate) fn takes(&mut self, media: &'static str, text: &'static str) -> &mut Self {
        self.more.push(Box::new(move |sketch| sketch.takes(media, text)));
        self
    }

    /// Says which JSON is in a body that the handler reads itself.
    pub(crate) fn takes_json<T: JsonSchema>(&mut self, media: &'static str, text: &'static str) -> &mut Self {
        self.more.push(Box::new(move |sketch| sketch.takes_json::<T>(media, text)));
        self
    }

    /// Says what is in an answer that the handler writes itself.
    pub(crate) fn gives(&mut self, media: &'static str, text: &'static str) -> &mut Self {
        self.more.push(Box::new(move |sketch| sketch.gives(200, media, text)));
        self
    }

    /// Says what is in another answer that the handler writes itself.
    pub(crate) fn gives_also(&mut self, status: u16, media: &'static str, text: &'static str) -> &mut Self {
        self.more.push(Box::new(move |sketch| sketch.gives(status, media, text)));
        self
    }

    /// Says which JSON is in an answer that the handler writes itself.
    pub(crate) fn gives_json<T: JsonSchema>(&mut self, media: &'static str, text: &'static str) -> &mut Self {
        self.more.push(Box::new(move |sketch| sketch.gives_json::<T>(200, media, text)));
        self
    }

    /// Names an answer without a body.
    pub(crate) fn gives_nothing(&mut self, status: u16, text: &'static str) -> &mut Self {
        self.more.push(Box::new(move |sketch| sketch.gives_nothing(status, text)));
        self
    }

    /// Names a header that is looked at.
    pub(crate) fn header(&mut self, name: &'static str, text: &'static str) -> &mut Self {
        self.more.push(Box::new(move |sketch| sketch.header(name, text)));
        self
    }
}

macro_rules! methods {
    ($($name:ident, $filter:ident;)*) => {
        $(
            /// Registers a route with this method: its path, its name, a sentence, and what answers.
            pub(crate) fn $name<H, T>(
                &mut self,
                path: &'static str,
                id: &'static str,
                summary: &'static str,
                handler: H,
            ) -> &mut Route
            where
                H: Handler<T, Arc<App>> + Described<T>,
                T: 'static,
            {
                self.router = std::mem::take(&mut self.router).route(path, on(MethodFilter::$filter, handler));
                let group = self.groups.last().expect("a group was begun").name;
                self.routes.push(Route {
                    method: stringify!($name),
                    path,
                    group,
                    id,
                    summary,
                    note: "",
                    types: H::describe,
                    more: Vec::new(),
                });
                self.routes.last_mut().expect("it was pushed just now")
            }
        )*
    };
}

impl Api {
    methods! {
        get, GET;
        post, POST;
        put, PUT;
        delete, DELETE;
    }

    /// No routes yet.
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), groups: Vec::new(), routes: Vec::new() }
    }

    /// Begins a group: the routes that follow belong to it.
    pub(crate) fn group(&mut self, name: &'static str, text: &'static str) {
        self.groups.push(Group { name, text });
    }

    /// Registers what is no part of the API: pages, files, and what others have described.
    ///
    /// # Panics
    /// For a path below those of the API: such a route needs a description.
    pub(crate) fn other(&mut self, path: &'static str, route: MethodRouter<Arc<App>>) {
        assert!(!DESCRIBED.iter().any(|api| path.starts_with(api)), "{path} has no description");
        self.router = std::mem::take(&mut self.router).route(path, route);
    }

    /// The routes, to be served.
    pub(crate) fn into_router(self) -> Router<Arc<App>> {
        self.router
    }
}
