// An independent client: logs in, listens on both hubs, trades a bracket, reads it back; prints what it saw as one JSON line.
// node second_client.mjs FOLDER_OF_NODE_MODULES '{"rest", "user_hub", "market_hub", "username", "api_key"}' skip|negotiate
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, place, mode] = process.argv.slice(2);
const signalR = createRequire(join(folder, "package.json"))("@microsoft/signalr");
const urls = JSON.parse(place);
const story = { orders: [], positions: [], fills: [], accounts: [], quotes: [], prints: [] };

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (post.token) headers.Authorization = `Bearer ${post.token}`;
  const answer = await fetch(urls.rest + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function until(what, test, seconds = 30) {
  for (const end = Date.now() + 1000 * seconds; Date.now() < end; await new Promise(done => setTimeout(done, 20))) {
    const found = await test();
    if (found) return found;
  }
  throw new Error(`waited ${seconds} s for ${what}`);
}

async function hub(url, handlers, subscriptions) {
  const options = { accessTokenFactory: () => post.token };
  if (mode === "skip") Object.assign(options, { skipNegotiation: true, transport: signalR.HttpTransportType.WebSockets });
  const connection = new signalR.HubConnectionBuilder().withUrl(url, options).configureLogging(signalR.LogLevel.Error).build();
  for (const [event, handler] of Object.entries(handlers)) connection.on(event, handler);
  await connection.start();
  for (const [method, ...args] of subscriptions) await connection.invoke(method, ...args); // waits for the completion
  return connection;
}

post.token = (await post("/api/Auth/loginKey", { userName: urls.username, apiKey: urls.api_key })).token;
post.token = (await post("/api/Auth/validate", {})).newToken;
const [account] = (await post("/api/Account/search", { onlyActiveAccounts: true })).accounts;
const [contract] = (await post("/api/Contract/search", { searchText: "MES", live: false })).contracts;
const accountId = account.id, contractId = contract.id;
Object.assign(story, { account, contract });

const keep = name => (...what) => { story[name].push(what.length > 1 ? what : what[0]); }; // a user event has one argument, a market event two
const user = await hub(urls.user_hub, { GatewayUserAccount: keep("accounts"), GatewayUserOrder: keep("orders"), GatewayUserPosition: keep("positions"), GatewayUserTrade: keep("fills") },
  [["SubscribeAccounts"], ["SubscribeOrders", accountId], ["SubscribePositions", accountId], ["SubscribeTrades", accountId]]);
const market = await hub(urls.market_hub, { GatewayQuote: keep("quotes"), GatewayTrade: keep("prints"), GatewayDepth: () => { } }, [["SubscribeContractTrades", contractId]]);
await until("a print", () => story.prints.length);
for (const what of ["Quotes", "MarketDepth", "Trades"]) await market.invoke(`SubscribeContract${what}`, contractId); // the prints once more: harmless
story.unknown_method = await market.invoke("SubscribeContractDepth", contractId).then(() => "", error => error.message);

const order = { accountId, contractId, type: 2, side: 0, size: 1 };
story.refused = await post("/api/Order/place", { ...order, customTag: "node-wrong", stopLossBracket: { ticks: 40, type: 4 } });
story.placed = await post("/api/Order/place", { ...order, customTag: "node-1", stopLossBracket: { ticks: -60, type: 4 }, takeProfitBracket: { ticks: 60, type: 1 } });
await until("an open position", async () => story.open_positions = await post("/api/Position/searchOpen", { accountId }).then(a => a.positions.length && a.positions));
story.legs = await until("two working legs", async () => (await post("/api/Order/searchOpen", { accountId })).orders.length === 2 && (await post("/api/Order/searchOpen", { accountId })).orders);
const stop = story.legs.find(leg => leg.type === 4);
story.modified = await post("/api/Order/modify", { accountId, orderId: stop.id, stopPrice: stop.stopPrice - 4 * contract.tickSize });
story.closed = await post("/api/Position/closeContract", { accountId, contractId });
await until("a flat account", async () => !(await post("/api/Position/searchOpen", { accountId })).positions.length);
await until("no working order", async () => !(await post("/api/Order/searchOpen", { accountId })).orders.length);
const since = "2000-01-01T00:00:00Z";
story.all_orders = (await post("/api/Order/search", { accountId, startTimestamp: since })).orders;
story.all_trades = (await post("/api/Trade/search", { accountId, startTimestamp: since })).trades;
await until("the flat position on the hub", () => story.positions.some(event => event.data.size === 0));
await until("both fills on the hub", () => story.fills.length >= 2);
await until("the legs' end on the hub", () => story.orders.filter(event => event.data.parentOrderId === story.placed.orderId && event.data.status === 3).length >= 2);
await user.stop();
await market.stop();
story.quotes = story.quotes.slice(0, 200);
story.prints = story.prints.slice(0, 50);
console.log(JSON.stringify(story));
