// How a process of Node does: its event loop, its heap and its HTTP responses, by what Node publishes of them.
//
// The agent imports it when figures are asked for. What it starts ends when nobody has asked for some time; totals go on
// when somebody asks again.
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { PerformanceObserver, monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { getHeapStatistics } from 'node:v8';

const REPORT_MS = 1000; // between two reports
const DELAY_MS = 20; // between two looks at how late the event loop is
const BOUNDS_MS = [1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000]; // of the histogram of response times

const gc = { runs: 0, ms: 0 };
const http = { answers: [0, 0, 0, 0, 0], times: Array(BOUNDS_MS.length + 1).fill(0), ms: 0 };
let until; // when it ends; undefined: it has

/** Reports for this time from now on. */
export function measure(forMs, tools) {
  const ended = until === undefined;
  until = tools.performance.now() + forMs;
  if (ended) start(tools);
}

function start({ send, channel, guarded, performance: clock, setInterval, clearInterval }) {
  const stops = [followDelay(), followCollections(guarded), followResponses(guarded, clock)];
  let before = performance.eventLoopUtilization();
  const reports = setInterval(guarded(() => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, before);
    before = now;
    const { used_heap_size: heap_used, heap_size_limit: heap_limit } = getHeapStatistics();
    const figures = {
      busy_ppm: Math.round(utilization * 1e6),
      delay_us: delays(),
      heap_used,
      heap_limit,
      gc_runs: gc.runs,
      gc_us: us(gc.ms),
      resources: process.getActiveResourcesInfo().length,
      answers: http.answers,
      times: http.times,
      time_us: us(http.ms),
    };
    const to = channel();
    // What the daemon does not read would keep the process alive.
    if (to && !to.connecting && to.writableLength === 0) send({ figures });
    if (clock.now() < until) return;
    until = undefined;
    clearInterval(reports);
    stops.forEach((stop) => stop());
  }), REPORT_MS);
  reports.unref();
}

const us = (ms) => Math.round(ms * 1000);

// --- The event loop ----------------------------------------------------------------------------------------------

/**
 * How late it was in the last two seconds. A histogram that is reset forgets when it looked last, and so a delay that
 * begins then: of two, the one that is not reset sees it.
 */
let histograms;

function followDelay() {
  histograms = [0, 1].map(() => monitorEventLoopDelay({ resolution: DELAY_MS }));
  histograms.forEach((histogram) => histogram.enable());
  return () => histograms.forEach((histogram) => histogram.disable());
}

function delays() {
  const [elder, younger] = histograms;
  // It is measured from one look to the next.
  const found = [50, 99, 100].map((percentile) => us(Math.max(0, elder.percentile(percentile) / 1e6 - DELAY_MS)));
  elder.reset();
  histograms = [younger, elder];
  return found;
}

function followCollections(guarded) {
  const collections = new PerformanceObserver(guarded((list) => list.getEntries().forEach(({ duration }) => {
    gc.runs += 1;
    gc.ms += duration;
  })));
  collections.observe({ entryTypes: ['gc'] });
  return () => collections.disconnect();
}

// --- Responses of HTTP/1 -----------------------------------------------------------------------------------------

function followResponses(guarded, clock) {
  const begun = new WeakMap();
  const begin = guarded(({ response }) => begun.set(response, clock.now()));
  const finish = guarded(({ response }) => {
    const since = begun.get(response);
    if (since === undefined) return;
    const ms = clock.now() - since;
    const bound = BOUNDS_MS.findIndex((bound) => ms <= bound);
    http.times[bound < 0 ? BOUNDS_MS.length : bound] += 1;
    http.answers[Math.min(Math.max(Math.trunc(response.statusCode / 100), 1), 5) - 1] += 1;
    http.ms += ms;
  });
  subscribe('http.server.request.start', begin);
  subscribe('http.server.response.finish', finish);
  return () => {
    unsubscribe('http.server.request.start', begin);
    unsubscribe('http.server.response.finish', finish);
  };
}
//# sourceURL=rpm-figures
