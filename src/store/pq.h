// libpq, found when PostgreSQL is first asked for. Debian has no static form of it
// that does without Kerberos and LDAP, and the program depends on glibc alone
// (docs/decisions/0011).
#pragma once

#include <postgresql/libpq-fe.h>

#include "base/result.h"

namespace ashlar::store {

#define ASHLAR_PQ_FUNCTIONS(each)                                                                                   \
  each(PQclear) each(PQcmdTuples) each(PQconnectdbParams) each(PQconninfoFree) each(PQconninfoParse)                \
      each(PQconsumeInput) each(PQenterPipelineMode) each(PQerrorMessage) each(PQexec) each(PQfinish) each(PQflush) \
          each(PQfname) each(PQfreemem) each(PQftype) each(PQgetisnull) each(PQgetlength) each(PQgetResult)         \
              each(PQgetvalue) each(PQisBusy) each(PQnfields) each(PQntuples) each(PQpipelineSync)                  \
                  each(PQresultErrorField) each(PQresultStatus) each(PQsendQueryParams) each(PQsetNoticeProcessor)  \
                      each(PQsetnonblocking) each(PQsetSingleRowMode) each(PQsocket) each(PQstatus)

struct Pq {
#define ASHLAR_PQ_MEMBER(name) decltype(&::name) name = nullptr;
  ASHLAR_PQ_FUNCTIONS(ASHLAR_PQ_MEMBER)
#undef ASHLAR_PQ_MEMBER
};

// Any thread; stays loaded. unsupported: it is not here, or too old (before 14).
Result<const Pq*> load_pq();

}  // namespace ashlar::store
