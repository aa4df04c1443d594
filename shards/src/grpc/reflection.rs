//! The standard reflection service, `v1` and `v1alpha` alike, over the descriptors that the wire contract was built from.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use ttdust_proto::{
    DESCRIPTORS,
    reflection::{
        ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest, ServerReflectionResponse,
        ServiceResponse, server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
};

use super::{
    exchange::Method,
    framing::put_message,
    status::{Code, Status},
};

/// Every file, by name and by the symbols that it defines.
#[derive(Debug)]
pub struct Descriptors {
    files: BTreeMap<String, FileDescriptorProto>,
    symbols: HashMap<String, String>,
    services: Vec<String>,
}

impl Descriptors {
    /// The descriptors of the wire contract.
    #[must_use]
    pub fn load() -> Self {
        let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the build wrote a descriptor set");
        let mut descriptors = Self { files: BTreeMap::new(), symbols: HashMap::new(), services: Vec::new() };
        for file in set.file {
            descriptors.index(&file);
            descriptors.files.insert(file.name().to_owned(), file);
        }
        descriptors.services.sort();
        descriptors
    }

    fn index(&mut self, file: &FileDescriptorProto) {
        let mut symbols = Vec::new();
        let qualify = |name: &str| format!("{}.{name}", file.package());
        for service in &file.service {
            let name = qualify(service.name());
            symbols.extend(service.method.iter().map(|method| format!("{name}.{}", method.name())));
            self.services.push(name.clone());
            symbols.push(name);
        }
        symbols.extend(file.enum_type.iter().map(|kind| qualify(kind.name())));
        for message in &file.message_type {
            message_symbols(&qualify(message.name()), message, &mut symbols);
        }
        self.symbols.extend(symbols.into_iter().map(|symbol| (symbol, file.name().to_owned())));
    }

    /// The file `name` and all that it imports, itself first.
    fn with_imports(&self, name: &str) -> Option<FileDescriptorResponse> {
        let mut wanted = VecDeque::from([name]);
        let mut seen = Vec::new();
        while let Some(name) = wanted.pop_front() {
            if !seen.contains(&name) {
                seen.push(name);
                wanted.extend(self.files.get(name)?.dependency.iter().map(String::as_str));
            }
        }
        let encoded = seen.iter().map(|name| self.files[*name].encode_to_vec().into()).collect();
        Some(FileDescriptorResponse { file_descriptor_proto: encoded })
    }

    fn answer(&self, request: &MessageRequest) -> MessageResponse {
        let missing = |what: &str| {
            let error_message = format!("no {what}");
            MessageResponse::ErrorResponse(ErrorResponse { error_code: Code::NotFound as i32, error_message })
        };
        let file = match request {
            MessageRequest::ListServices(_) => {
                let service = self.services.iter().map(|name| ServiceResponse { name: name.clone() }).collect();
                return MessageResponse::ListServicesResponse(ListServiceResponse { service });
            }
            MessageRequest::FileByFilename(name) => self.with_imports(name),
            MessageRequest::FileContainingSymbol(symbol) => {
                self.symbols.get(symbol).and_then(|name| self.with_imports(name))
            }
            MessageRequest::FileContainingExtension(_) | MessageRequest::AllExtensionNumbersOfType(_) => {
                return missing("extensions: proto3 messages have none");
            }
        };
        file.map_or_else(|| missing("such file or symbol"), MessageResponse::FileDescriptorResponse)
    }
}

fn message_symbols(name: &str, message: &DescriptorProto, symbols: &mut Vec<String>) {
    symbols.push(name.to_owned());
    symbols.extend(message.enum_type.iter().map(|kind| format!("{name}.{}", kind.name())));
    for nested in &message.nested_type {
        message_symbols(&format!("{name}.{}", nested.name()), nested, symbols);
    }
}

/// `ServerReflectionInfo`.
#[derive(Debug)]
pub struct Reflection {
    descriptors: Rc<Descriptors>,
    answers: VecDeque<ServerReflectionResponse>,
}

impl Reflection {
    /// A call that is answered from `descriptors`.
    #[must_use]
    pub fn new(descriptors: Rc<Descriptors>) -> Self {
        Self { descriptors, answers: VecDeque::new() }
    }
}

impl Method for Reflection {
    fn settle(&mut self) -> Option<bool> {
        Some(false)
    }

    fn take(&mut self, message: Bytes, _received: Instant) -> Result<(), Status> {
        let request = ServerReflectionRequest::decode(message).map_err(|error| Status::bad_message(&error))?;
        let wanted = request.message_request.as_ref().ok_or_else(|| {
            Status::new(Code::InvalidArgument, "MALFORMED_MESSAGE", "the reflection request asks for nothing")
        })?;
        let message_response = Some(self.descriptors.answer(wanted));
        let valid_host = request.host.clone();
        let answer = ServerReflectionResponse { valid_host, original_request: Some(request), message_response };
        self.answers.push_back(answer);
        Ok(())
    }

    fn flush(&mut self) {}

    fn put_answers(&mut self, out: &mut BytesMut) -> Result<(), Status> {
        self.answers.drain(..).for_each(|answer| put_message(out, &answer));
        Ok(())
    }

    fn in_flight(&self) -> (usize, usize) {
        (self.answers.len(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_listed_and_its_file_comes_with_its_imports() {
        let descriptors = Descriptors::load();
        assert!(descriptors.services.contains(&"ttdust.ingestion.v1.IngestionService".to_owned()));
        let symbol = MessageRequest::FileContainingSymbol("google.rpc.Status".to_owned());
        let MessageResponse::FileDescriptorResponse(files) = descriptors.answer(&symbol) else { panic!("no files") };
        let names: Vec<_> = files
            .file_descriptor_proto
            .iter()
            .map(|file| FileDescriptorProto::decode(file.clone()).expect("decodes").name().to_owned())
            .collect();
        assert_eq!(names, ["google/rpc/status.proto", "google/protobuf/any.proto", "google/protobuf/duration.proto"]);
        let unknown = MessageRequest::FileByFilename("none.proto".to_owned());
        assert!(matches!(descriptors.answer(&unknown), MessageResponse::ErrorResponse(_)));
    }
}
