%% The Erlang side of nif/ill_nif.c. Sizes are in bytes, of each.
-module(ill_nif).
-export([load/1]).
-export([leak/3, leak_cpu/3, leak_io/3, leak_thread/3, drop_cache/0, fragment/3, fragment_enif/3,
         become/0, truth/0]).

load(Dir) -> erlang:load_nif(filename:join(Dir, "ill_nif"), 0).

leak(_Way, _Count, _Size) -> erlang:nif_error(not_loaded).
leak_cpu(_Way, _Count, _Size) -> erlang:nif_error(not_loaded).
leak_io(_Way, _Count, _Size) -> erlang:nif_error(not_loaded).
leak_thread(_Way, _Count, _Size) -> erlang:nif_error(not_loaded).
drop_cache() -> erlang:nif_error(not_loaded).
fragment(_Count, _Size, _Keep) -> erlang:nif_error(not_loaded).
fragment_enif(_Count, _Size, _Keep) -> erlang:nif_error(not_loaded).
become() -> erlang:nif_error(not_loaded).
truth() -> erlang:nif_error(not_loaded).
