%% The Erlang side of nif/own_c.c.
-module(own_c).
-export([load/1, make/1, leak/1, dump/1, churn/1, resource/1, hold/1, where/1]).

load(Dir) -> erlang:load_nif(filename:join(Dir, "own_c"), 0).

make(_) -> erlang:nif_error(not_loaded).
leak(_) -> erlang:nif_error(not_loaded).
dump(_) -> erlang:nif_error(not_loaded).
churn(_) -> erlang:nif_error(not_loaded).
where(_) -> erlang:nif_error(not_loaded).
resource(_) -> erlang:nif_error(not_loaded).

%% A process that holds one resource with so many entries.
hold(N) ->
    Self = self(),
    spawn(fun() ->
              Resource = resource(N),
              Self ! {own_c, held},
              receive {drop, _} -> Resource end
          end),
    receive {own_c, held} -> ok end.
