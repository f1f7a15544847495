%% The Erlang side of nif/leak_nif.c. Sizes are in bytes, of each.
-module(leak_nif).
-export([load/1]).
-export([leak_malloc/2, keep_malloc/2, free_kept/0, leak_mmap/2, leak_enif/2, keep_enif/2,
         leak_binary/2, leak_resource/2, make_resources/2, leak_env/2, threads/2, pattern/2,
         truth/0, dump/1, malloc_info/0, stall/1]).

load(Dir) -> erlang:load_nif(filename:join(Dir, "leak_nif"), 0).

leak_malloc(_Count, _Size) -> erlang:nif_error(not_loaded).
keep_malloc(_Count, _Size) -> erlang:nif_error(not_loaded).
free_kept() -> erlang:nif_error(not_loaded).
leak_mmap(_Count, _Size) -> erlang:nif_error(not_loaded).
leak_enif(_Count, _Size) -> erlang:nif_error(not_loaded).
keep_enif(_Count, _Size) -> erlang:nif_error(not_loaded).
leak_binary(_Count, _Size) -> erlang:nif_error(not_loaded).
leak_resource(_Count, _Size) -> erlang:nif_error(not_loaded).
make_resources(_Count, _Size) -> erlang:nif_error(not_loaded).
leak_env(_Count, _Size) -> erlang:nif_error(not_loaded).
threads(_Count, _TouchedBytes) -> erlang:nif_error(not_loaded).
pattern(_Threads, _Chunks) -> erlang:nif_error(not_loaded).
truth() -> erlang:nif_error(not_loaded).
dump(_File) -> erlang:nif_error(not_loaded).
malloc_info() -> erlang:nif_error(not_loaded).
stall(_Milliseconds) -> erlang:nif_error(not_loaded).
