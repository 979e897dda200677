-- The head of a browser, of 12 fields, for another target each time: nothing that was read, or
-- written, for one request can be used for the next.
local count = 0
local fields = {
    ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ["Accept-Language"] = "en-US,en;q=0.5",
    ["Accept-Encoding"] = "gzip, deflate, br, zstd",
    ["Referer"] = "http://localhost/articles/2026/november",
    ["Cookie"] = "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=1",
    ["Upgrade-Insecure-Requests"] = "1",
    ["Sec-Fetch-Dest"] = "document",
    ["Sec-Fetch-Mode"] = "navigate",
    ["Sec-Fetch-Site"] = "same-origin",
    ["Priority"] = "u=0, i",
}

function request()
    count = count + 1
    return wrk.format("GET", "/articles/" .. count .. "?page=" .. count % 97, fields)
end
