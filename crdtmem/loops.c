/* The hot loops of staging and joining, compiled. `crdtmem/loops.py` tells when they are used.

   Problem: plain Python joins a run of plain deltas by the interpreter's own loops, each of
   which goes over the whole run: looking names up, subtracting dots, making entries,
   storing them.

   Idea: one pass does all of it, name by name. A journal takes everything back where a
   delta turns out not to be plain; the Python loops then do what they do for any run.
   Entries are taken out of the garbage collector's sight as they are made: what they hold
   is frozen and cannot be part of a cycle.

   Invariants: a function that returns False has changed nothing, and so has one that
   raises; anything else leaves behind what the Python loops would have left (a test holds
   the two side by side). The interpreter's lock is held throughout, and no Python code runs
   but the hashing and comparing of names, which are text, bytes or whole numbers. Dots are
   below 2^128; machines are little-endian, others run the Python loops. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if PY_BIG_ENDIAN
#error "the compiled loops read and write little-endian columns in place"
#endif
#ifdef Py_GIL_DISABLED
#error "the compiled loops count on the interpreter's lock"
#endif

/* Raised when what crosses the border changes: Python takes no other version. */
#define INTERFACE 3

/* -------------------------------------------------------------------- dots */

typedef struct {
    uint64_t replica;
    uint64_t sequence;
} Dot;

/* Read a dot; returns -1 with an exception for what is no whole number below 2^128. */
static int
read_dot(PyObject *number, Dot *dot)
{
    unsigned char bytes[16];
    if (!PyLong_CheckExact(number)) {
        PyErr_SetString(PyExc_TypeError, "a dot is a whole number");
        return -1;
    }
#if PY_VERSION_HEX >= 0x030D0000
    Py_ssize_t needed = PyLong_AsNativeBytes(
        number, bytes, sizeof bytes,
        Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER
            | Py_ASNATIVEBYTES_REJECT_NEGATIVE);
    if (needed < 0)
        return -1;
    if (needed > (Py_ssize_t)sizeof bytes) {
        PyErr_SetString(PyExc_OverflowError, "a dot has 128 bits");
        return -1;
    }
#else
    if (_PyLong_AsByteArray((PyLongObject *)number, bytes, sizeof bytes, 1, 0) < 0)
        return -1;
#endif
    memcpy(&dot->sequence, bytes, 8);
    memcpy(&dot->replica, bytes + 8, 8);
    return 0;
}

static PyObject *
make_dot(uint64_t replica, uint64_t sequence)
{
    unsigned char bytes[16];
    memcpy(bytes, &sequence, 8);
    memcpy(bytes + 8, &replica, 8);
#if PY_VERSION_HEX >= 0x030D0000
    return PyLong_FromUnsignedNativeBytes(bytes, sizeof bytes, Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
    return _PyLong_FromByteArray(bytes, sizeof bytes, 1, 0);
#endif
}

/* -------------------------------------------------------------------- runs */

/* A run of deltas while it is joined, and what it takes to undo it. */
typedef struct {
    PyObject *over, *base, *stamp;
    PyObject **names, **values;
    Py_ssize_t count;
    Dot first;
    PyObject **found;    /* per name what was current before: owned, or NULL */
    uint64_t *distances; /* per name how far back that lay, 0 for nothing */
    char *staged;        /* per name whether that was in `over` */
    Py_ssize_t done;     /* how many names have been joined */
    Py_ssize_t replaced; /* how many of these replaced something */
} Run;

/* Take (over, base, names, values, first, stamp, …); returns -1 with an exception. */
static int
run_begin(Run *run, PyObject *const *arguments, Py_ssize_t given, Py_ssize_t expected)
{
    memset(run, 0, sizeof *run);
    if (given != expected) {
        PyErr_Format(PyExc_TypeError, "%zd arguments, not %zd", expected, given);
        return -1;
    }
    PyObject *names = arguments[2], *values = arguments[3];
    if (!PyDict_CheckExact(arguments[0]) || !PyDict_CheckExact(arguments[1])
        || !(PyList_CheckExact(names) || PyTuple_CheckExact(names))
        || !(PyList_CheckExact(values) || PyTuple_Check(values))) {
        PyErr_SetString(PyExc_TypeError, "a run is two dictionaries and two columns");
        return -1;
    }
    run->over = arguments[0];
    run->base = arguments[1];
    run->stamp = arguments[5];
    run->count = PySequence_Fast_GET_SIZE(names);
    run->names = PySequence_Fast_ITEMS(names);
    run->values = PySequence_Fast_ITEMS(values);
    if (PySequence_Fast_GET_SIZE(values) != run->count) {
        PyErr_SetString(PyExc_ValueError, "a run has a value for each name");
        return -1;
    }
    if (read_dot(arguments[4], &run->first) < 0)
        return -1;
    if (run->first.sequence > UINT64_MAX - (uint64_t)run->count) {
        PyErr_SetString(PyExc_OverflowError, "a sequence has 64 bits");
        return -1;
    }
    /* One block for three columns, the widest first. */
    size_t width = sizeof(PyObject *) + sizeof(uint64_t) + sizeof(char);
    run->found = PyMem_Malloc((size_t)run->count * width + 1);
    if (run->found == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    run->distances = (uint64_t *)(run->found + run->count);
    run->staged = (char *)(run->distances + run->count);
    return 0;
}

static void
run_end(Run *run)
{
    for (Py_ssize_t index = 0; index < run->done; index++)
        Py_XDECREF(run->found[index]);
    PyMem_Free(run->found);
}

/* Take back what was joined. Returns False, or NULL: with the exception that was set when it
   was called, or with one of its own. */
static PyObject *
run_undo(Run *run)
{
    PyObject *type, *value, *traceback;
    int failed = 0;
    PyErr_Fetch(&type, &value, &traceback);
    for (Py_ssize_t index = run->done - 1; index >= 0 && !failed; index--) {
        PyObject *name = run->names[index];
        failed = run->staged[index] ? PyDict_SetItem(run->over, name, run->found[index])
                                    : PyDict_DelItem(run->over, name);
    }
    if (failed) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return NULL;
    }
    if (type != NULL) {
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    Py_RETURN_FALSE;
}

/* What the next name holds. */
typedef struct {
    PyObject *entry;   /* borrowed, or NULL */
    int staged;        /* whether it is in `over` */
    uint64_t distance; /* how far back it lies if it is one entry, of the writer's own; else 0 */
} Held;

/* Take what was found under the next name; returns -1 with an exception. */
static int
run_hold(const Run *run, Held *held, PyObject *entry, int staged)
{
    held->entry = entry;
    held->staged = staged;
    held->distance = 0;
    if (entry == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if (PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 3) {
        Dot dot;
        uint64_t sequence = run->first.sequence + (uint64_t)run->done;
        if (read_dot(PyTuple_GET_ITEM(entry, 0), &dot) < 0)
            return -1;
        if (dot.replica == run->first.replica && dot.sequence > 0 && dot.sequence < sequence)
            held->distance = sequence - dot.sequence;
    }
    return 0;
}

/* Find what the next name holds; returns -1 with an exception. */
static int
run_look(const Run *run, Held *held)
{
    PyObject *name = run->names[run->done], *entry = PyDict_GetItemWithError(run->over, name);
    int staged = entry != NULL;
    if (entry == NULL && !PyErr_Occurred() && run->base != run->over)
        entry = PyDict_GetItemWithError(run->base, name);
    return run_hold(run, held, entry, staged);
}

/* Make the next delta's entry. Steals the value, which may be NULL with an exception. */
static PyObject *
run_entry(const Run *run, PyObject *value)
{
    if (value == NULL)
        return NULL;
    PyObject *dot = make_dot(run->first.replica, run->first.sequence + (uint64_t)run->done);
    PyObject *entry = dot != NULL ? PyTuple_New(3) : NULL;
    if (entry == NULL) {
        Py_XDECREF(dot);
        Py_DECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(entry, 0, dot);
    PyTuple_SET_ITEM(entry, 1, value);
    PyTuple_SET_ITEM(entry, 2, Py_NewRef(run->stamp));
    PyObject_GC_UnTrack(entry);
    return entry;
}

/* Note that the next name's entry is stored. Steals what it replaced, which may be NULL. */
static void
run_note(Run *run, PyObject *found, int staged, uint64_t distance)
{
    run->found[run->done] = found;
    run->staged[run->done] = (char)staged;
    run->distances[run->done] = distance;
    run->replaced += found != NULL;
    run->done++;
}

/* Store a value under the next name, in place of what it holds. Steals the value, which may
   be NULL with an exception; returns -1 with an exception. */
static int
run_store(Run *run, const Held *held, PyObject *value)
{
    PyObject *entry = run_entry(run, value);
    if (entry == NULL)
        return -1;
    /* Kept before it is replaced: the dictionary may be all that holds it. */
    PyObject *found = Py_XNewRef(held->entry);
    int stored = PyDict_SetItem(run->over, run->names[run->done], entry);
    Py_DECREF(entry);
    if (stored < 0)
        Py_XDECREF(found);
    else
        run_note(run, found, held->staged, held->distance);
    return stored;
}

/* Store a value under the next name if `over` holds nothing there, and find what `base`
   holds: one look-up less than to find and to store. Steals the value. Returns 1 if it was
   stored, 0 if not, -1 with an exception. */
static int
run_claim(Run *run, Held *held, PyObject *value)
{
    PyObject *name = run->names[run->done], *entry = run_entry(run, value);
    if (entry == NULL)
        return -1;
    PyObject *now = PyDict_SetDefault(run->over, name, entry);
    int claimed = now == entry;
    Py_DECREF(entry);
    if (now == NULL)
        return -1;
    if (!claimed)
        return run_hold(run, held, now, 1);
    PyObject *found = run->base == run->over ? NULL : PyDict_GetItemWithError(run->base, name);
    int failed = run_hold(run, held, found, 0);
    run_note(run, Py_XNewRef(found), 0, held->distance);
    return failed < 0 ? -1 : 1;
}

/* Return the dots that were replaced if only some names replaced any, else None. */
static PyObject *
run_removed(const Run *run)
{
    if (run->replaced == 0 || run->replaced == run->count)
        Py_RETURN_NONE;
    PyObject *removed = PyList_New(run->replaced);
    Py_ssize_t at = 0;
    for (Py_ssize_t index = 0; removed != NULL && index < run->count; index++)
        if (run->found[index] != NULL)
            PyList_SET_ITEM(removed, at++, Py_NewRef(PyTuple_GET_ITEM(run->found[index], 0)));
    return removed;
}

/* Return the distances as bytes of the narrowest width that holds them; None if all are 0. */
static PyObject *
run_distances(const Run *run)
{
    uint64_t largest = 0;
    if (run->replaced == 0)
        Py_RETURN_NONE;
    for (Py_ssize_t index = 0; index < run->count; index++)
        if (run->distances[index] > largest)
            largest = run->distances[index];
    size_t width = largest >> 8 == 0 ? 1 : largest >> 16 == 0 ? 2 : largest >> 32 == 0 ? 4 : 8;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, run->count * (Py_ssize_t)width);
    if (bytes == NULL)
        return NULL;
    char *at = PyBytes_AS_STRING(bytes);
    for (Py_ssize_t index = 0; index < run->count; index++, at += width)
        memcpy(at, &run->distances[index], width);
    return bytes;
}

/* -------------------------------------------------------------------- join_run */

PyDoc_STRVAR(join_run_doc,
"join_run(over, base, names, values, first, stamp, distances)\n--\n\n"
"Join a column of deltas if each supersedes exactly what its name holds.\n\n"
"That is nothing, or the one entry that ``distances``, an array, leads to; ``None`` stands for\n"
"an array of zeros. Returns ``False``, having changed nothing, for any other column; else the\n"
"dots that were removed, or ``None`` where that was nothing, or one for each delta.");

static PyObject *
join_run(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    (void)module;
    Run run;
    Py_buffer column = {0};
    Py_ssize_t width = 0;
    PyObject *result = NULL;
    if (run_begin(&run, arguments, given, 7) < 0)
        return NULL;
    if (arguments[6] != Py_None) {
        if (PyObject_GetBuffer(arguments[6], &column, PyBUF_SIMPLE) < 0)
            goto end;
        width = run.count ? column.len / run.count : 0;
        if (width * run.count != column.len
            || !(width == 1 || width == 2 || width == 4 || width == 8)) {
            PyErr_SetString(PyExc_ValueError, "a run has a distance for each name");
            goto end;
        }
    }
    while (run.done < run.count) {
        Held held;
        uint64_t wanted = 0;
        if (width)
            memcpy(&wanted, (char *)column.buf + run.done * width, (size_t)width);
        PyObject *value = Py_NewRef(run.values[run.done]);
        if (!wanted) {
            if (run_claim(&run, &held, value) <= 0 || held.entry != NULL)
                goto undo;
            continue;
        }
        if (run_look(&run, &held) < 0 || held.distance != wanted) {
            Py_DECREF(value);
            goto undo;
        }
        if (run_store(&run, &held, value) < 0)
            goto undo;
    }
    /* A column that says that nothing was replaced is not written as one: let Python see. */
    if (width && run.replaced == 0)
        goto undo;
    result = run_removed(&run);
    if (result != NULL)
        goto end;
undo:
    result = run_undo(&run);
end:
    if (column.obj != NULL)
        PyBuffer_Release(&column);
    run_end(&run);
    return result;
}

/* -------------------------------------------------------------------- put_run */

PyDoc_STRVAR(put_run_doc,
"put_run(over, base, names, values, first, stamp, again)\n--\n\n"
"Stage plain writes if each replaces at most one entry, of the writer's own.\n\n"
"A name that is staged already is fine only if ``again``. Returns ``False``, having changed\n"
"nothing, for any other run; else the distances to what was replaced as bytes, or ``None``,\n"
"and the removed dots, or ``None`` where that was nothing, or one for each write.");

static PyObject *
put_run(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    (void)module;
    Run run;
    PyObject *result = NULL;
    if (run_begin(&run, arguments, given, 7) < 0)
        return NULL;
    int again = arguments[6] == Py_True;
    while (run.done < run.count) {
        Held held;
        PyObject *value = run.values[run.done];
        int claimed = run_claim(&run, &held, Py_NewRef(value));
        if (claimed < 0 || (held.entry != NULL && (!held.distance || (held.staged && !again))))
            goto undo;
        if (!claimed && run_store(&run, &held, Py_NewRef(value)) < 0)
            goto undo;
    }
    PyObject *distances = run_distances(&run);
    PyObject *removed = distances != NULL ? run_removed(&run) : NULL;
    if (removed != NULL)
        result = PyTuple_Pack(2, distances, removed);
    Py_XDECREF(distances);
    Py_XDECREF(removed);
    if (result != NULL)
        goto end;
undo:
    result = run_undo(&run);
end:
    run_end(&run);
    return result;
}

/* -------------------------------------------------------------------- count_run */

/* Read a whole number from 0 to 2^63 - 1: 1 it is one, 0 it is not, -1 an exception. */
static int
read_amount(PyObject *number, int64_t *amount)
{
    int overflow;
    if (!PyLong_CheckExact(number))
        return 0;
    *amount = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (*amount == -1 && PyErr_Occurred())
        return -1;
    return !overflow && *amount >= 0;
}

/* Find the total that follows the next name's: 1 found, 0 it is not plain, -1 an exception. */
static int
next_total(const Run *run, const Held *held, int64_t *birth, int64_t *total)
{
    int64_t amount, up;
    *birth = *total = 0;
    int plain = read_amount(run->values[run->done], &amount);
    if (held->entry != NULL && plain > 0) {
        PyObject *before = PyTuple_GET_ITEM(held->entry, 1);
        if (!PyTuple_CheckExact(before) || PyTuple_GET_SIZE(before) != 2)
            return 0;
        plain = read_amount(PyTuple_GET_ITEM(before, 0), birth);
        if (plain > 0)
            plain = read_amount(PyTuple_GET_ITEM(before, 1), total);
    }
    if (plain <= 0)
        return plain;
    up = amount;
    if (held->distance > (uint64_t)(INT64_MAX - *birth) || up > INT64_MAX - *total)
        return 0;
    *birth += (int64_t)held->distance;
    *total += up;
    return 1;
}

PyDoc_STRVAR(count_run_doc,
"count_run(over, base, names, amounts, first, stamp, again)\n--\n\n"
"Stage increments if each name holds nothing, or one total of the writer's own.\n\n"
"The total must be of increments only, never reset, and must fit 63 bits. Returns as\n"
"``put_run``, and before that the list of new totals, and the lists of their two components.");

static PyObject *
count_run(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    (void)module;
    Run run;
    PyObject *result = NULL;
    if (run_begin(&run, arguments, given, 7) < 0)
        return NULL;
    int again = arguments[6] == Py_True;
    PyObject *totals = PyList_New(run.count);
    PyObject *births = PyList_New(run.count), *counts = PyList_New(run.count);
    if (totals == NULL || births == NULL || counts == NULL)
        goto end;
    while (run.done < run.count) {
        Held held;
        int64_t birth, total;
        if (run_look(&run, &held) < 0)
            goto undo;
        if (held.entry != NULL && (!held.distance || (held.staged && !again)))
            goto undo;
        if (next_total(&run, &held, &birth, &total) <= 0)
            goto undo;
        PyObject *value = PyTuple_New(2), *parts[2];
        parts[0] = PyLong_FromLongLong(birth);
        parts[1] = PyLong_FromLongLong(total);
        if (value == NULL || parts[0] == NULL || parts[1] == NULL) {
            Py_XDECREF(value);
            Py_XDECREF(parts[0]);
            Py_XDECREF(parts[1]);
            goto undo;
        }
        PyTuple_SET_ITEM(value, 0, parts[0]);
        PyTuple_SET_ITEM(value, 1, parts[1]);
        PyObject_GC_UnTrack(value);
        PyList_SET_ITEM(births, run.done, Py_NewRef(parts[0]));
        PyList_SET_ITEM(counts, run.done, Py_NewRef(parts[1]));
        PyList_SET_ITEM(totals, run.done, Py_NewRef(value));
        if (run_store(&run, &held, value) < 0)
            goto undo;
    }
    PyObject *distances = run_distances(&run);
    PyObject *removed = distances != NULL ? run_removed(&run) : NULL;
    if (removed != NULL)
        result = PyTuple_Pack(5, totals, births, counts, distances, removed);
    Py_XDECREF(distances);
    Py_XDECREF(removed);
    if (result != NULL)
        goto end;
undo:
    result = run_undo(&run);
end:
    Py_XDECREF(totals);
    Py_XDECREF(births);
    Py_XDECREF(counts);
    run_end(&run);
    return result;
}

PyDoc_STRVAR(are_amounts_doc,
"are_amounts(values)\n--\n\n"
"Tell whether all values of a list are whole numbers from 0 to 2^63 - 1.");

static PyObject *
are_amounts(PyObject *module, PyObject *values)
{
    (void)module;
    if (!PyList_CheckExact(values)) {
        PyErr_SetString(PyExc_TypeError, "amounts come in a list");
        return NULL;
    }
    int64_t amount;
    int fine = 1;
    for (Py_ssize_t index = 0; fine > 0 && index < PyList_GET_SIZE(values); index++)
        fine = read_amount(PyList_GET_ITEM(values, index), &amount);
    return fine < 0 ? NULL : PyBool_FromLong(fine);
}

/* -------------------------------------------------------------------- keys */

/* Return what a column of keys shares at its front, in characters, and the longest's length;
   -1 where a key is no text of one byte per character, is empty, or holds U+0000. */
static Py_ssize_t
shared_prefix(PyObject **keys, Py_ssize_t count, Py_ssize_t limit, Py_ssize_t *longest)
{
    Py_ssize_t shared = limit;
    const char *model = NULL;
    *longest = 0;
    for (Py_ssize_t index = 0; index < count; index++) {
        PyObject *key = keys[index];
        if (!PyUnicode_CheckExact(key) || !PyUnicode_IS_ASCII(key))
            return -1;
        const char *text = (const char *)PyUnicode_1BYTE_DATA(key);
        Py_ssize_t length = PyUnicode_GET_LENGTH(key), at = 0;
        if (length == 0 || memchr(text, 0, (size_t)length) != NULL)
            return -1;
        if (length > *longest)
            *longest = length;
        if (model == NULL)
            model = text;
        if (length < shared)
            shared = length;
        while (at < shared && text[at] == model[at])
            at++;
        shared = at;
    }
    return shared;
}

PyDoc_STRVAR(join_keys_doc,
"join_keys(keys, limit)\n--\n\n"
"Return what all keys begin with, up to a limit; their rests joined by U+0000; and the\n"
"length of the longest key. Returns ``None`` unless there are two or more, and all are ASCII,\n"
"not empty, and free of U+0000.");

static PyObject *
join_keys(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    (void)module;
    if (given != 2 || !(PyList_CheckExact(arguments[0]) || PyTuple_CheckExact(arguments[0]))) {
        PyErr_SetString(PyExc_TypeError, "a column of keys and a limit are joined");
        return NULL;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(arguments[0]), longest, limit, size;
    PyObject **keys = PySequence_Fast_ITEMS(arguments[0]);
    limit = PyLong_AsSsize_t(arguments[1]);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    Py_ssize_t shared = shared_prefix(keys, count, limit, &longest);
    if (count < 2 || shared < 0)
        Py_RETURN_NONE;
    size = count - 1;
    for (Py_ssize_t index = 0; index < count; index++)
        size += PyUnicode_GET_LENGTH(keys[index]) - shared;
    PyObject *rests = PyUnicode_New(size, 127);
    PyObject *prefix = PyUnicode_Substring(keys[0], 0, shared);
    if (rests == NULL || prefix == NULL) {
        Py_XDECREF(rests);
        Py_XDECREF(prefix);
        return NULL;
    }
    char *at = (char *)PyUnicode_1BYTE_DATA(rests);
    for (Py_ssize_t index = 0; index < count; index++) {
        size_t length = (size_t)(PyUnicode_GET_LENGTH(keys[index]) - shared);
        if (index)
            *at++ = 0;
        memcpy(at, (char *)PyUnicode_1BYTE_DATA(keys[index]) + shared, length);
        at += length;
    }
    return Py_BuildValue("(NNn)", prefix, rests, longest);
}

PyDoc_STRVAR(split_keys_doc,
"split_keys(prefix, rests)\n--\n\n"
"Return the keys that ``join_keys`` joined, or ``None`` where either is not ASCII.");

static PyObject *
split_keys(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    (void)module;
    if (given != 2 || !PyUnicode_CheckExact(arguments[0]) || !PyUnicode_CheckExact(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "a prefix and the rests of keys are text");
        return NULL;
    }
    PyObject *prefix = arguments[0], *rests = arguments[1];
    if (!PyUnicode_IS_ASCII(prefix) || !PyUnicode_IS_ASCII(rests))
        Py_RETURN_NONE;
    const char *shared = (const char *)PyUnicode_1BYTE_DATA(prefix);
    const char *at = (const char *)PyUnicode_1BYTE_DATA(rests);
    const char *end = at + PyUnicode_GET_LENGTH(rests);
    size_t before = (size_t)PyUnicode_GET_LENGTH(prefix);
    Py_ssize_t count = 1, index;
    for (const char *mark = at; (mark = memchr(mark, 0, (size_t)(end - mark))) != NULL; mark++)
        count++;
    PyObject *keys = PyList_New(count);
    for (index = 0; keys != NULL && index < count; index++) {
        const char *mark = index + 1 < count ? memchr(at, 0, (size_t)(end - at)) : end;
        size_t length = (size_t)(mark - at);
        PyObject *key;
        if (before + length < 2)
            key = PyUnicode_FromStringAndSize(before ? shared : at, (Py_ssize_t)(before + length));
        else if ((key = PyUnicode_New((Py_ssize_t)(before + length), 127)) != NULL) {
            memcpy(PyUnicode_1BYTE_DATA(key), shared, before);
            memcpy((char *)PyUnicode_1BYTE_DATA(key) + before, at, length);
        }
        if (key == NULL)
            Py_CLEAR(keys);
        else
            PyList_SET_ITEM(keys, index, key);
        at = mark + 1;
    }
    return keys;
}

/* -------------------------------------------------------------------- columns */

PyDoc_STRVAR(pair_up_doc,
"pair_up(firsts, seconds)\n--\n\n"
"Return the tuple of pairs of two tuples' items; raises ``ValueError`` if one is longer.\n\n"
"Returns ``None`` unless all items are whole numbers.");

static PyObject *
pair_up(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    (void)module;
    if (given != 2 || !PyTuple_CheckExact(arguments[0]) || !PyTuple_CheckExact(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "two tuples are paired up");
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(arguments[0]);
    if (PyTuple_GET_SIZE(arguments[1]) != count) {
        PyErr_SetString(PyExc_ValueError, "one column is longer than the other");
        return NULL;
    }
    PyObject *pairs = PyTuple_New(count);
    for (Py_ssize_t index = 0; pairs != NULL && index < count; index++) {
        PyObject *first = PyTuple_GET_ITEM(arguments[0], index);
        PyObject *second = PyTuple_GET_ITEM(arguments[1], index);
        if (!PyLong_CheckExact(first) || !PyLong_CheckExact(second)) {
            Py_DECREF(pairs);
            Py_RETURN_NONE;
        }
        PyObject *pair = PyTuple_Pack(2, first, second);
        if (pair == NULL)
            Py_CLEAR(pairs);
        else {
            PyObject_GC_UnTrack(pair);
            PyTuple_SET_ITEM(pairs, index, pair);
        }
    }
    return pairs;
}

PyDoc_STRVAR(furthest_doc,
"furthest(distances)\n--\n\n"
"Return how far a column of distances leads before its own first delta, at most.");

static PyObject *
furthest(PyObject *module, PyObject *column)
{
    (void)module;
    Py_buffer buffer;
    if (PyObject_GetBuffer(column, &buffer, PyBUF_FORMAT) < 0)
        return NULL;
    Py_ssize_t width = buffer.itemsize, count = buffer.len / (width ? width : 1);
    uint64_t most = 0;
    if (!(width == 1 || width == 2 || width == 4 || width == 8)) {
        PyErr_SetString(PyExc_ValueError, "a column of distances has whole numbers");
        count = -1;
    }
    for (Py_ssize_t index = 0; index < count; index++) {
        uint64_t distance = 0;
        memcpy(&distance, (char *)buffer.buf + index * width, (size_t)width);
        if (distance > (uint64_t)index && distance - (uint64_t)index > most)
            most = distance - (uint64_t)index;
    }
    PyBuffer_Release(&buffer);
    return count < 0 ? NULL : PyLong_FromUnsignedLongLong(most);
}

/* -------------------------------------------------------------------- module */

#define FUNCTION(name) \
    {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

static PyMethodDef functions[] = {
    FUNCTION(join_run),
    FUNCTION(put_run),
    FUNCTION(count_run),
    FUNCTION(join_keys),
    FUNCTION(split_keys),
    FUNCTION(pair_up),
    {"are_amounts", are_amounts, METH_O, are_amounts_doc},
    {"furthest", furthest, METH_O, furthest_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_crdtmem_loops", "The hot loops of crdtmem, compiled.", -1, functions,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__crdtmem_loops(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0)
        Py_CLEAR(module);
    return module;
}
